"""`KeyRanges`: the range of keys that each query attends to, and the blocks a kernel visits."""

from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from .segments import Segment, split


class KeyRanges:
    """Query i attends to the keys `first_i <= j < end_i`, and to none where that range is empty.

    Ranges describe causal, windowed, padded and packed attention, and which source tokens a learner
    may see. Two numbers per query replace a mask `[T, S]`, so memory grows with T only.

    Args:
        first, end: integers `[B, T]`, or `[1, T]` if all rows of the batch share them.
        count: S, the number of keys; every `end` is at most S.
    """

    def __init__(self, first: Tensor, end: Tensor, count: int) -> None:
        first, end = torch.broadcast_tensors(first.to(torch.int32), end.to(torch.int32))
        self.first, self.end, self.count = first.contiguous(), end.contiguous(), count
        self._spans: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    @classmethod
    def causal(
        cls, queries: int, keys: int, window: int | None = None, device: torch.device | None = None
    ) -> "KeyRanges":
        """The last query sees the last key; with a window, each sees its newest `window` keys."""
        end = torch.arange(keys - queries + 1, keys + 1, device=device)[None]
        first = torch.zeros_like(end) if window is None else (end - window).clamp(min=0)
        return cls(first, end.clamp(min=0), keys)

    @property
    def queries(self) -> int:
        """T."""
        return self.first.shape[1]

    def mask(self) -> Tensor:
        """`[B or 1, T, S]` bool, True where a query sees a key; for references and small shapes."""
        index = torch.arange(self.count, device=self.first.device)
        return (index >= self.first[..., None]) & (index < self.end[..., None])

    @cached_property
    def segments(self) -> list[list[Segment]]:
        """The segments of each row, for self-attention (T = S) with a dense attention function."""
        return [list(split(*row)) for row in zip(self.first, self.end, strict=True)]

    def validate(self, batch: int, queries: int, keys: int, device: torch.device) -> None:
        """Raises a ValueError unless the ranges fit tensors of these sizes on this device."""
        rows = self.first.shape[0]
        if rows not in (1, batch) or (self.queries, self.count) != (queries, keys):
            raise ValueError(
                f"key_ranges are of {rows} rows, {self.queries} queries and {self.count} keys, but "
                f"the tensors have {batch} rows, {queries} queries and {keys} keys."
            )
        if self.first.device != device:
            raise ValueError(
                f"key_ranges are on {self.first.device} but the tensors are on {device}; move them "
                "to one device."
            )

    def to(self, device: torch.device) -> "KeyRanges":
        """A copy on `device`."""
        return KeyRanges(self.first.to(device), self.end.to(device), self.count)

    def block_spans(self, queries: int, keys: int) -> tuple[Tensor, Tensor]:
        """The blocks to visit, for blocks of `queries` queries and `keys` keys.

        Returns:
            `[B or 1, ceil(T / queries), 4]` int32: for each block of queries, the spans of key
            blocks `low, full_low, full_high, high`. Blocks in `[low, high)` have a visible key. In
            `[full_low, full_high)` every query sees the whole block, so no mask is needed.
            And the same for each block of keys, `[B or 1, ceil(S / keys), 4]`.
        """
        size = (queries, keys)
        if size not in self._spans:
            visited, full = self._block_masks(queries, keys)
            self._spans[size] = (_spans(visited, full), _spans(visited.mT, full.mT))
        return self._spans[size]

    def _block_masks(self, queries: int, keys: int) -> tuple[Tensor, Tensor]:
        """`[B, nq, nk]` bool: blocks where some query sees some key, and where all see all."""
        largest = torch.iinfo(torch.int32).max
        empty = self.end <= self.first

        def blocks(numbers: Tensor, if_empty: int, padding: int) -> Tensor:
            numbers = pad(
                numbers.masked_fill(empty, if_empty), (0, -self.queries % queries), value=padding
            )
            return numbers.unflatten(1, (-1, queries))

        # An empty range visits no block, and it makes no block of its queries full. Queries that
        # only fill up the last block do neither: kernels never store their results.
        lowest = blocks(self.first, largest, largest).amin(-1)
        highest = blocks(self.end, 0, 0).amax(-1)
        full_low = blocks(self.first, largest, 0).amax(-1)
        full_high = blocks(self.end, 0, largest).amin(-1)
        start = torch.arange(0, self.count, keys, device=self.first.device, dtype=torch.int32)
        # `stop` may exceed S: an incomplete last block is never full, so its loads are masked.
        stop = start + keys
        visited = (lowest[..., None] < stop) & (highest[..., None] > start)
        full = (full_low[..., None] <= start) & (full_high[..., None] >= stop)
        return visited, full


def _spans(visited: Tensor, full: Tensor) -> Tensor:
    """`[B, n, m]` bool twice -> the spans of m that `KeyRanges.block_spans` describes, int32."""
    low, high = _bounds(visited)
    full_low, full_high = _bounds(full)
    # A span cannot describe full blocks with partial ones between them. No model makes such ranges;
    # there, every block is visited with a mask.
    broken = full.sum(-1, dtype=torch.int32) != full_high - full_low
    full_low = torch.where(broken, high, full_low).clamp(min=low, max=high)
    full_high = torch.where(broken, high, full_high).clamp(min=low, max=high)
    return torch.stack([low, full_low, full_high, high], dim=-1)


def _bounds(mask: Tensor) -> tuple[Tensor, Tensor]:
    """The first True index and the last plus one, int32; 0 and 0 where there is none."""
    size = mask.shape[-1]
    index = torch.arange(size, device=mask.device, dtype=torch.int32)
    low = torch.where(mask, index, size).amin(-1)
    high = torch.where(mask, index + 1, 0).amax(-1)
    return torch.where(high > 0, low, 0).to(torch.int32), high.to(torch.int32)
