"""Errors of data workers: unwrapped from torch's messages, and raised when a worker is lost."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from wings.errors import WingsError
from wings.records.records import GONE

_PREFIX = f"{WingsError.__module__}.{WingsError.__name__}: "
# torch's words for an error that a worker raised.
_RAISED = "in DataLoader worker process"
# Seconds until a killed worker has exited.
_DYING = 1.0


class LostWorker(WingsError):
    """A data worker exited early, most often because memory ran out."""


@contextmanager
def reporting_lost_workers() -> Iterator[None]:
    """Wraps everything that runs while workers exist.

    Raises:
        LostWorker: a worker exited, which torch raises anywhere in the process.
    """
    try:
        yield
    except RuntimeError as error:
        if GONE not in str(error):
            raise
        raise lost_worker(str(error).strip()) from error


@contextmanager
def unwrapping_worker_errors(workers: int) -> Iterator[None]:
    """Wraps reads from a loader with this number of workers.

    Raises:
        WingsError: raised by a worker; without torch's traceback text.
        LostWorker: a worker exited while sending a batch. torch only checks whether it is alive,
            and it may still be exiting then.
    """
    try:
        yield
    except WingsError as error:
        raise WingsError(last_line(error).removeprefix(_PREFIX)) from None
    except (ConnectionError, EOFError) as error:
        if not workers or _RAISED in str(error):
            raise
        # torch raises its own error once the worker has exited: during this sleep and not later.
        time.sleep(_DYING)
        raise lost_worker(f"it sent half a batch, {type(error).__name__}") from error


def lost_worker(news: str) -> LostWorker:
    """The error with the cause and what to do."""
    return LostWorker(f"data: a data worker exited ({news}); if memory ran out, lower workers")


def last_line(error: Exception) -> str:
    """Message of an error without the worker traceback that torch adds."""
    return str(error).strip().splitlines()[-1]
