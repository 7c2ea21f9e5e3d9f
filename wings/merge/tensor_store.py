"""The tensors in the safetensors files of a folder, read one at a time."""

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wings.errors import WingsError
from wings.saved_files import INDEX

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = f"model{INDEX}"
# Names of dtypes in a safetensors file.
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "BOOL": torch.bool,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
}  # fmt: skip
CODES = {dtype: code for code, dtype in DTYPES.items()}
PIECE = 1 << 24  # bytes that are copied at once


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        file: of the tensor.
        code: the file's name for its dtype.
        shape: of the tensor.
        start, size (bytes): its place in the file.
    """

    file: Path
    code: str
    shape: tuple[int, ...]
    start: int
    size: int

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype; None for one that torch lacks."""
        return DTYPES.get(self.code)

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def read(self) -> Tensor:
        """The tensor, in memory of its own.

        Raises:
            WingsError: a dtype that torch lacks.
        """
        dtype = self.dtype
        if dtype is None:
            raise WingsError(f"{self.file.name} has a tensor of dtype {self.code}: convert it.")
        if self.size == 0:
            return torch.empty(self.shape, dtype=dtype)
        data = bytearray(self.size)
        with self.file.open("rb") as file:
            file.seek(self.start)
            if file.readinto(data) != self.size:
                raise WingsError(f"{self.file} changed while it was read: run the command again.")
        return torch.frombuffer(data, dtype=dtype).reshape(self.shape)

    def pieces(self) -> Iterator[bytes]:
        """The bytes of the tensor, a piece at a time."""
        with self.file.open("rb") as file:
            file.seek(self.start)
            left = self.size
            while left:
                piece = file.read(min(PIECE, left))
                if not piece:
                    raise WingsError(
                        f"{self.file} changed while it was read: run the command again."
                    )
                left -= len(piece)
                yield piece


class TensorStore:
    """All tensors of a folder, by name.

    Args:
        folder: with `model.safetensors`, or with shards and their index.

    Raises:
        WingsError: no safetensors files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = self._files()
        self.tensors: dict[str, StoredTensor] = {}
        self.metadata: dict[Path, dict[str, str]] = {}
        for file in self.files:
            self._read_header(file)

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __getitem__(self, name: str) -> StoredTensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def _files(self) -> list[Path]:
        if (self.folder / WEIGHTS).is_file():
            return [self.folder / WEIGHTS]
        index = self.folder / WEIGHTS_INDEX
        if index.is_file():
            names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            return [self.folder / name for name in sorted(set(names))]
        raise WingsError(
            f"The folder '{self.folder}' has neither {WEIGHTS} nor {WEIGHTS_INDEX}: save the model"
            f" as safetensors first."
        )

    def _read_header(self, path: Path) -> None:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        self.metadata[path] = header.pop("__metadata__", {})
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            self.tensors[name] = StoredTensor(
                path, entry["dtype"], tuple(entry["shape"]), 8 + length + start, end - start
            )
