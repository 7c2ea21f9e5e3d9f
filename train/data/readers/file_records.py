"""Records of JSON, JSON Lines and parquet files, parsed on access."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wings.errors import WingsError

from .records import Records


class JsonRecords(Records):
    """The records of a `.json` file that holds a list."""

    def __init__(self, path: Path) -> None:
        self.path, self.folder = path, path.parent
        try:
            values = json.loads(path.read_bytes())
        except ValueError as error:
            raise WingsError(f"{path}: not JSON ({error}).") from None
        if not isinstance(values, list):
            raise WingsError(
                f"{path}: expected a JSON list of records, got {type(values).__name__}."
            )
        self._keep(json.dumps(value).encode() for value in values)

    def __len__(self) -> int:
        return len(self._offsets)

    def read(self, number: int) -> Any:
        """The value at `number`."""
        start, end = self._offsets[number]
        try:
            return json.loads(self._text[start:end])
        except ValueError as error:
            raise WingsError(f"not JSON ({error})") from None

    def _keep(self, texts: Iterator[bytes]) -> None:
        parts, offsets, end = [], [], 0
        for text in texts:
            parts.append(text)
            offsets.append((end, end + len(text)))
            end += len(text)
        self._text = b"".join(parts)
        self._offsets = np.array(offsets, dtype=np.int64).reshape(-1, 2)


class JsonLinesRecords(JsonRecords):
    """The records of a `.jsonl` file, one per line; empty lines are skipped."""

    def __init__(self, path: Path) -> None:
        self.path, self.folder = path, path.parent
        self._text = path.read_bytes()
        offsets, lines, start = [], [], 0
        for number, line in enumerate(self._text.splitlines(keepends=True), start=1):
            if line.strip():
                offsets.append((start, start + len(line)))
                lines.append(number)
            start += len(line)
        self._offsets = np.array(offsets, dtype=np.int64).reshape(-1, 2)
        self._line_numbers = np.array(lines, dtype=np.int64)

    def place(self, number: int) -> str:
        """The line number, from 1, empty lines included."""
        return f"{self.path} line {self._line_numbers[number]}"


class ParquetRecords(Records):
    """The rows of a `.parquet` file, as an Arrow table in memory."""

    def __init__(self, path: Path) -> None:
        # Imported here, because only parquet files need it.
        import pyarrow
        import pyarrow.parquet

        self.path, self.folder = path, path.parent
        try:
            self._table = pyarrow.parquet.read_table(path)
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise WingsError(
                f"{path}: not readable as parquet ({' '.join(str(error).split())})."
            ) from None

    def __len__(self) -> int:
        return self._table.num_rows

    def read(self, number: int) -> Any:
        """Row `number`."""
        return self._table.slice(number, 1).to_pylist()[0]
