"""Records: data with access by record number."""

import bisect
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wings.errors import WingsError

# torch's words for a worker that exited.
GONE = "DataLoader worker (pid"
# Letters of an error that are shown.
SHOWN = 600


class SourceError(WingsError):
    """The source cannot be read (any more). No single record is at fault, so none is skipped."""


@contextmanager
def naming(place: Callable[[], str]) -> Iterator[None]:
    """The boundary around all work on one record or file: its errors name the place.

    Args:
        place: describes the record or file; called only for an error.

    Raises:
        WingsError: for any `Exception`, in one line; a `SourceError` stays one. The error of a lost
            data worker, which torch raises anywhere, is passed on.
    """
    try:
        yield
    except WingsError as error:
        kind = SourceError if isinstance(error, SourceError) else WingsError
        raise kind(one_line(f"{place()}: {error}")) from error
    except Exception as error:
        if GONE in str(error)[:1000]:
            raise
        reason = str(error)[:SHOWN] or "no message"
        raise WingsError(one_line(f"{place()}: {type(error).__name__}: {reason}")) from error


def one_line(text: str) -> str:
    """The text without line breaks, at most `SHOWN` letters, all of which can be printed."""
    printable = text[: 2 * SHOWN].encode("utf-8", "backslashreplace").decode()
    line = " ".join(printable.split())
    return line if len(line) <= SHOWN else line[: SHOWN - 3] + "..."


class Records(ABC):
    """The records of one source.

    Forked data workers share `Records` with the training process. So they consist of few large
    objects (bytes, arrays, Arrow tables): a list of dictionaries would be copied page by page as
    reference counts change.

    Attributes:
        path: named in errors.
        folder: folder that image paths are relative to by default.
        shuffle_buffer: records that are shuffled together in a source that is read forwards; None
            with random access.
        record_bytes: bytes that the text of a record may have.
        image_bytes: bytes that an image or a sound in a shard may have.
        video_bytes: likewise a video.
    """

    path: Path
    folder: Path
    shuffle_buffer: int | None = None
    record_bytes: int = 64 * 2**20
    image_bytes: int = 256 * 2**20
    video_bytes: int = 2**30

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, number: int) -> Any:
        """The value at `number`, counted from 0.

        Raises:
            WingsError: it cannot be read; `SourceError` if the whole source is affected.
        """

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Record `number`, counted from 0."""
        record = self.read(number)
        if not isinstance(record, dict):
            raise WingsError(f"a record is a mapping, this one is {str(record)[:40]!r}")
        return record

    def place(self, number: int) -> str:
        """Location of a record, for messages."""
        return f"{self.path} record {number}"


@contextmanager
def naming_record(records: Records, number: int) -> Iterator[None]:
    """`naming` for one record; its errors are whole sentences.

    Raises:
        WingsError: see `naming`.
    """
    try:
        with naming(lambda: records.place(number)):
            yield
    except WingsError as error:
        raise type(error)(f"{str(error).removesuffix('.')}.") from error


def validate_size(size: int, most: int, what: str = "it", key: str = "record_bytes") -> None:
    """Raise a `WingsError` for more bytes than the limit `key` of the recipe allows."""
    if size > most:
        raise WingsError(f"{what} has {size:,} bytes, more than limits.{key} allows, {most:,}")


class JoinedRecords(Records):
    """The records of several files, numbered one file after the other.

    Args:
        path: the folder or pattern of the files.
        folder: see `Records`.
        parts: records of each file, at least one.
    """

    def __init__(self, path: Path, folder: Path, parts: Sequence[Records]) -> None:
        self.path, self.folder, self.parts = path, folder, list(parts)
        self.starts = [0, *itertools.accumulate(map(len, self.parts))]

    def __len__(self) -> int:
        return self.starts[-1]

    def read(self, number: int) -> Any:
        """Record `number` over all files."""
        part, inner = locate(number, self.starts)
        return self.parts[part].read(inner)

    def place(self, number: int) -> str:
        """File and location in it."""
        part, inner = locate(number, self.starts)
        return self.parts[part].place(inner)


def locate(number: int, starts: Sequence[int]) -> tuple[int, int]:
    """Index of the part that contains item `number`, and the item's index in that part.

    Args:
        number: index over all parts.
        starts: first index of each part, and the total.
    """
    if not 0 <= number < starts[-1]:
        raise IndexError(number)
    part = bisect.bisect_right(starts, number) - 1
    return part, number - starts[part]
