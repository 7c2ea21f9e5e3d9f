"""Records: training data opened so that any record can be had by its number."""

import bisect
import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wings.errors import WingsError


class SourceError(WingsError):
    """What holds the records cannot be read (any more): no record's fault, so none is skipped."""


class Records(ABC):
    """The records of one file, or of several as one.

    Worker processes are forked from the training process and read the same `Records`. So these are
    made of few large objects (bytes, arrays, Arrow tables): a list of dictionaries would be copied
    page by page as reference counts change.

    Attributes:
        path: what an error names.
        folder: what image paths are relative to unless the recipe says otherwise.
        window: records that are shuffled together, where records can only be had one after the
            other; None where any can be had at once.
    """

    path: Path
    folder: Path
    window: int | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, number: int) -> Any:
        """Whatever stands at `number`, counted from 0.

        Raises:
            WingsError: it cannot be read; `SourceError` if that goes for others too.
        """

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Record `number`, counted from 0."""
        record = self.read(number)
        if not isinstance(record, dict):
            raise WingsError(f"a record is a mapping, this one is {str(record)[:40]!r}")
        return record

    def place(self, number: int) -> str:
        """How a person finds a record."""
        return f"{self.path} record {number}"


class JoinedRecords(Records):
    """The records of several files, numbered one file after the other.

    Args:
        path: the folder or pattern that the files came from.
        folder: see `Records`.
        parts: at least one.
    """

    def __init__(self, path: Path, folder: Path, parts: Sequence[Records]) -> None:
        self.path, self.folder, self.parts = path, folder, list(parts)
        self.starts = [0, *itertools.accumulate(map(len, self.parts))]

    def __len__(self) -> int:
        return self.starts[-1]

    def read(self, number: int) -> Any:
        """Record `number` over all files."""
        part, inner = self._find(number)
        return self.parts[part].read(inner)

    def place(self, number: int) -> str:
        """File and place in it."""
        part, inner = self._find(number)
        return self.parts[part].place(inner)

    def _find(self, number: int) -> tuple[int, int]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        part = bisect.bisect_right(self.starts, number) - 1
        return part, number - self.starts[part]
