"""The C library's heap, which is kept from giving memory back while calls are timed."""

import ctypes
import sys

# Of malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
# The most that glibc takes: what is larger always comes from the system and goes back to it.
LARGEST = 32 * 2**20
NEVER = -1


def keep_heap() -> bool:
    """Lets freed memory stay with the process; whether the C library is one that can be told so.

    Otherwise a call pays for new pages, up to a quarter of a forward, or does not, as the calls
    before it have left the heap. Allocators that are made for tensors keep memory in any case.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    try:
        tell = libc.mallopt
    except AttributeError:
        return False
    return bool(tell(MMAP_THRESHOLD, LARGEST) and tell(TRIM_THRESHOLD, NEVER))
