"""Records of a JSON list or of JSON Lines, kept as bytes and read one by one."""

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


class LineRecords(JsonRecords):
    """The records of a `.jsonl` file, one a line; empty lines are passed over."""

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
        """The line, counted from 1 and empty ones too."""
        return f"{self.path} line {self._line_numbers[number]}"
