"""Chunks of a flat tensor, so that what is computed from it takes little memory."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

CHUNK = 1 << 19  # elements


def chunks(count: int, width: int = 1) -> Iterator[slice]:
    """Slices that cover `count` elements; each has whole rows of `width` elements."""
    step = max(1, CHUNK // width) * width
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def compute_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """The dtype that tensors are merged in: float64 if one of them has it, else float32."""
    has_double = any(tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if has_double else torch.float32
