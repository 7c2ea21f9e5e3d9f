"""Data workers: what they say, without torch's wrapping, and the news that one of them is gone."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from wings.errors import WingsError

_PREFIX = f"{WingsError.__module__}.{WingsError.__name__}: "
# Of a worker that ended; an error that a worker raised speaks of its "DataLoader worker process".
_GONE = "DataLoader worker (pid"
_RAISED = "in DataLoader worker process"
# Seconds within which a worker that was killed has ended.
_DYING = 1.0


class LostWorker(WingsError):
    """A data worker ended before its time, most often because memory ran out."""


@contextmanager
def watching_workers() -> Iterator[None]:
    """Around all that runs while there are workers.

    Raises:
        LostWorker: one of them ended, which torch says wherever the process is at that moment.
    """
    try:
        yield
    except RuntimeError as error:
        if _GONE not in str(error):
            raise
        raise lost_worker(str(error).strip()) from error


@contextmanager
def asking_workers(workers: int) -> Iterator[None]:
    """Around what asks a loader with so many workers for batches.

    Raises:
        WingsError: a worker raised it; the sentence alone.
        LostWorker: one ended while it handed over a batch. torch only asks whether it is alive,
            and it may still be dying then.
    """
    try:
        yield
    except WingsError as error:
        raise WingsError(last_line(error).removeprefix(_PREFIX)) from None
    except (ConnectionError, EOFError) as error:
        if not workers or _RAISED in str(error):
            raise
        # torch's own news comes once the worker has ended: in this sleep, and not later, where
        # nobody waits for it.
        time.sleep(_DYING)
        raise lost_worker(f"it handed over half a batch, {type(error).__name__}") from error


def lost_worker(news: str) -> LostWorker:
    """The error with what is known of the worker's end, and what to do."""
    return LostWorker(f"data: a data worker ended ({news}); if memory ran out, lower workers")


def last_line(error: Exception) -> str:
    """What an error says, without the traceback that torch puts before a data worker's."""
    return str(error).strip().splitlines()[-1]
