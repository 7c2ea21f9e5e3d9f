"""The ways out of a command: each is a sentence on stderr and an exit code.

0 done, 2 a wrong input, 1 a fault of this program, of a library, of the machine or of the Hub, 130
stopped from the keyboard, 141 nobody reads the output any more. `--debug` shows the traceback.
"""

import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

from .errors import HubError, WingsError

WRONG, FAULT, STOPPED, UNREAD = 2, 1, 130, 141
# safetensors and tokenizers give errors of the system as text.
RUST_ERROR = re.compile(r"\(os error (\d+)\)")
# Words of gloo, NCCL and torch's store when another process of a run is gone.
PEER = (
    "connection closed by peer", "connection reset by peer", "connection refused",
    "gloo/transport", "ncclremoteerror", "nccl error", "broken pipe", "recvvalue failed",
    "failed to recv", "socket timeout", "store->get", "distributed store",
)  # fmt: skip


def run_command(name: str, function: Callable[[], Any], debug: bool = False) -> int:
    """Calls a command's function; returns its exit code.

    Args:
        name: as typed; the prefix of every sentence.
        function: the work; a number that it returns is the exit code.
        debug: also print the traceback of an error.
    """
    make_streams_lenient()
    try:
        result = function()
        sys.stdout.flush()
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        if debug:
            traceback.print_exception(error)
        code, sentence = ending_of(error)
        if isinstance(error, BrokenPipeError):
            drop_output()
        tell(f"{name}: {sentence}")
        return code
    return result if isinstance(result, int) else 0


def ending_of(error: BaseException) -> tuple[int, str]:
    """The exit code and the sentence of an error."""
    if isinstance(error, WingsError):
        return FAULT if isinstance(error, HubError) else WRONG, str(error)
    if isinstance(error, KeyboardInterrupt):
        return STOPPED, "stopped."
    if isinstance(error, BrokenPipeError) and not is_peer_lost(error):
        return UNREAD, "Nobody reads the output any more, so the command ended early."
    reason = " ".join(str(error).split()).rstrip(".")[:400]
    what = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    if is_peer_lost(error):
        return FAULT, (
            f"Another process of this run ended or cannot be reached ({what}): look at its own "
            f"message, and start all processes again."
        )
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return FAULT, f"The memory ran out ({what}): use smaller batches or a larger machine."
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename else ""
        return FAULT, f"The system refused a file or a device: {error.strerror}{where}."
    if found := RUST_ERROR.search(reason):
        refused = os.strerror(int(found[1]))
        return FAULT, f"The system refused a file or a device: {refused} ({what})."
    return FAULT, (
        f"{what}; neither the input nor its place is known to be wrong, so repeat the command with "
        f"--debug and report the traceback."
    )


def is_peer_lost(error: BaseException) -> bool:
    """True if an error tells of another process of a distributed run."""
    if int(os.environ.get("WORLD_SIZE") or 1) < 2:
        return False
    text = str(error).lower()
    is_own = (
        type(error).__module__.startswith("torch.distributed") or "Dist" in type(error).__name__
    )
    return is_own or any(word in text for word in PEER)


def make_streams_lenient() -> None:
    """Text that a terminal cannot show is escaped; bytes that are no text become a mark."""
    for stream, errors in (
        (sys.stdout, "backslashreplace"),
        (sys.stderr, "backslashreplace"),
        (sys.stdin, "replace"),
    ):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=errors)


def drop_output() -> None:
    """Sends what is still to be written nowhere, so that nothing fails at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        # A stream without a file, as in a notebook.
        return


def tell(sentence: str) -> None:
    """Prints to stderr, if anybody is there."""
    try:
        print(sentence, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        return
