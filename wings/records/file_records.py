"""Records of JSON, JSON Lines and parquet files, parsed on access."""

import codecs
import json
from pathlib import Path
from typing import Any

import numpy as np

from wings.errors import WingsError

from .json_list import entry_spans
from .records import Records, one_line, validate_size

# Byte order marks; the longer one of two that begin alike comes first.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def open_json(path: Path) -> "JsonRecords":
    """The records of a `.json` file: of a list, or one in each line."""
    text = _utf8(path.read_bytes())
    first = text.lstrip().partition(b"\n")[0]
    try:
        is_record = first[:1] == b"{" and bool(json.loads(first))
    except (ValueError, RecursionError):
        is_record = False
    return JsonLinesRecords(path, text) if is_record else JsonRecords(path, text)


def open_json_lines(path: Path) -> "JsonLinesRecords":
    """The records of a `.jsonl` file."""
    return JsonLinesRecords(path, _utf8(path.read_bytes()))


class JsonRecords(Records):
    """The records of a JSON list; each is parsed on access.

    Args:
        path: of the file.
        text: its content in UTF-8.
    """

    def __init__(self, path: Path, text: bytes) -> None:
        self.path, self.folder, self._text = path, path.parent, text
        try:
            spans = entry_spans(text)
        except ValueError as error:
            raise WingsError(f"{path}: {error}.") from None
        self._offsets = np.array(spans, dtype=np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._offsets)

    def read(self, number: int) -> Any:
        """The value at `number`."""
        start, end = self._offsets[number]
        validate_size(int(end - start), self.record_bytes)
        try:
            return json.loads(self._text[start:end])
        except ValueError as error:
            raise WingsError(f"not JSON ({error})") from None


class JsonLinesRecords(JsonRecords):
    """The records of JSON Lines, one per line; empty lines are skipped."""

    def __init__(self, path: Path, text: bytes) -> None:
        self.path, self.folder, self._text = path, path.parent, text
        offsets, lines, start, number = [], [], 0, 0
        while start < len(self._text):
            number += 1
            end = self._text.find(b"\n", start) + 1 or len(self._text)
            if self._text[start:end].strip():
                offsets.append((start, end))
                lines.append(number)
            start = end
        self._offsets = np.array(offsets, dtype=np.int64).reshape(-1, 2)
        self._line_numbers = np.array(lines, dtype=np.int64)

    def place(self, number: int) -> str:
        """The line number, from 1, empty lines included."""
        return f"{self.path} line {self._line_numbers[number]}"


def _utf8(data: bytes) -> bytes:
    """The text of a JSON file without a byte order mark, in UTF-8."""
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), None)
    return data if encoding is None else data.decode(encoding).encode()


class ParquetRecords(Records):
    """The rows of a `.parquet` file, as an Arrow table in memory."""

    def __init__(self, path: Path) -> None:
        # Imported here, because only parquet files need it.
        import pyarrow
        import pyarrow.parquet

        self.path, self.folder = path, path.parent
        try:
            self._table = pyarrow.parquet.read_table(path)
        # Damaged files raise errors of pyarrow and of Python.
        except Exception as error:
            raise WingsError(one_line(f"{path}: not readable as parquet ({error}).")) from None

    def __len__(self) -> int:
        return self._table.num_rows

    def read(self, number: int) -> Any:
        """Row `number`, without the keys that only other rows have."""
        return without_nulls(self._table.slice(number, 1).to_pylist()[0])


def without_nulls(value: Any) -> Any:
    """The value without keys of None, with which Arrow fills what a mapping lacks."""
    if isinstance(value, dict):
        return {name: without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value
