"""Records: one training file, opened so that any record can be had by its number."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wings.errors import WingsError


class Records:
    """The records of one `.json`, `.jsonl` or `.parquet` file.

    JSON texts stay bytes with an array of offsets, parquet stays an Arrow table: worker processes
    then share one copy, where a list of dictionaries would be copied page by page as reference
    counts change.

    Raises:
        WingsError: a missing, unreadable or empty file, or an unknown ending.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        if not self.path.is_file():
            raise WingsError(
                f"{self.path}: no such data file; set its path in the recipe's data list."
            )
        self.kind = self.path.suffix.lower()
        if self.kind == ".json":
            self._open_json()
        elif self.kind in (".jsonl", ".ndjson"):
            self._open_lines()
        elif self.kind == ".parquet":
            self._open_parquet()
        else:
            raise WingsError(
                f"{self.path}: unknown ending '{self.kind}'; use .json, .jsonl or .parquet."
            )
        if not len(self):
            raise WingsError(f"{self.path}: the file holds no records.")

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Record `number`, counted from 0."""
        if self.kind == ".parquet":
            record = self._table.slice(number, 1).to_pylist()[0]
        else:
            start, end = self._offsets[number]
            try:
                record = json.loads(self._text[start:end])
            except ValueError as error:
                raise WingsError(f"not JSON ({error})") from None
        if not isinstance(record, dict):
            raise WingsError(f"a record is a mapping, this one is {str(record)[:40]!r}")
        return record

    def place(self, number: int) -> str:
        """How a person finds a record: its line (from 1) in JSON Lines, else its number from 0."""
        if self.kind in (".jsonl", ".ndjson"):
            return f"{self.path} line {self._line_numbers[number]}"
        return f"{self.path} record {number}"

    def _open_json(self) -> None:
        try:
            values = json.loads(self.path.read_bytes())
        except ValueError as error:
            raise WingsError(f"{self.path}: not JSON ({error}).") from None
        if not isinstance(values, list):
            raise WingsError(
                f"{self.path}: expected a JSON list of records, got {type(values).__name__}."
            )
        self._keep(json.dumps(value).encode() for value in values)

    def _open_lines(self) -> None:
        self._text = self.path.read_bytes()
        offsets, lines, start = [], [], 0
        for number, line in enumerate(self._text.splitlines(keepends=True), start=1):
            if line.strip():
                offsets.append((start, start + len(line)))
                lines.append(number)
            start += len(line)
        self._offsets = np.array(offsets, dtype=np.int64).reshape(-1, 2)
        self._line_numbers = np.array(lines, dtype=np.int64)
        self._length = len(offsets)

    def _open_parquet(self) -> None:
        # Imported here: only those who have parquet pay for it.
        import pyarrow
        import pyarrow.parquet

        try:
            self._table = pyarrow.parquet.read_table(self.path)
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise WingsError(
                f"{self.path}: not readable as parquet ({' '.join(str(error).split())})."
            ) from None
        self._length = self._table.num_rows

    def _keep(self, texts: Iterator[bytes]) -> None:
        parts, ends, end = [], [], 0
        for text in texts:
            parts.append(text)
            end += len(text)
            ends.append(end)
        self._text = b"".join(parts)
        self._offsets = np.array(
            [*zip([0, *ends[:-1]], ends, strict=True)] if ends else [], dtype=np.int64
        )
        self._length = len(ends)
