"""A safetensors file that is written one piece after the other."""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from .tensor_store import CODES

ALIGNMENT = 8  # bytes


@dataclass(frozen=True)
class ShardEntry:
    """A tensor that a file will hold: its name, the file's name for its dtype, and its shape."""

    name: str
    code: str
    shape: tuple[int, ...]
    size: int

    @classmethod
    def of(cls, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> "ShardEntry":
        """An entry of a dtype of torch."""
        return cls(name, CODES[dtype], shape, dtype.itemsize * math.prod(shape))

    @property
    def item_size(self) -> int:
        """Bytes of an element."""
        return self.size // max(math.prod(self.shape), 1)


def in_file_order(entries: Sequence[ShardEntry]) -> list[ShardEntry]:
    """Sorts entries by falling size of an element, so that all begin at a multiple of theirs."""
    return sorted(entries, key=lambda entry: (-entry.item_size, entry.name))


class ShardWriter:
    """Writes the tensors of a file in the order of its entries.

    Args:
        path: of the file.
        entries: of all its tensors, in the order of `in_file_order`.
        metadata: texts by name.
    """

    def __init__(
        self, path: Path, entries: Sequence[ShardEntry], metadata: Mapping[str, str]
    ) -> None:
        self.path = path
        header: dict = {"__metadata__": dict(metadata)} if metadata else {}
        start = 0
        for entry in entries:
            end = start + entry.size
            header[entry.name] = {
                "dtype": entry.code, "shape": list(entry.shape), "data_offsets": [start, end]
            }  # fmt: skip
            start = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % ALIGNMENT)
        self._left = start
        self._file = path.open("wb")
        self._file.write(struct.pack("<Q", len(text)) + text)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if error is None and self._left:
            raise RuntimeError(f"{self._left} bytes of {self.path.name} were not written")

    def write(self, piece: bytes | Tensor) -> None:
        """Appends bytes, or the elements of a contiguous tensor."""
        data = bytes_of(piece) if isinstance(piece, Tensor) else memoryview(piece)
        self._left -= data.nbytes
        self._file.write(data)


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor on the CPU, without a copy if it is contiguous."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
