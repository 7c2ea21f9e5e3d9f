"""`Runs`: which keys each query attends to, and which blocks of both a kernel has to visit."""

from functools import cached_property

import torch
from torch import Tensor

from .segments import Stretch, cut


class Runs:
    """Query i of a row attends to the keys `first_i <= j < end_i`; to none where the run is empty.

    Causal, windowed, padded and packed attention are all runs, and so is the visibility of a
    learner's gathered source rows; no T x S mask has to exist for any of them.

    Args:
        first, end: `[B, T]` or `[1, T]` (the same for every row), whole numbers of one device.
        keys: S, the number of keys; every `end` is at most S.
    """

    def __init__(self, first: Tensor, end: Tensor, keys: int) -> None:
        self.first, self.end = first.to(torch.int32), end.to(torch.int32)
        self.keys = keys
        self._blocks: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    @classmethod
    def causal(
        cls, queries: int, keys: int, window: int | None = None, device: torch.device | None = None
    ) -> "Runs":
        """The last query sees the last key; with a window, each sees the newest `window` keys."""
        end = torch.arange(keys - queries + 1, keys + 1, device=device)[None]
        first = torch.zeros_like(end) if window is None else (end - window).clamp(min=0)
        return cls(first, end.clamp(min=0), keys)

    @property
    def queries(self) -> int:
        """T."""
        return self.first.shape[1]

    def sees(self) -> Tensor:
        """`[B or 1, T, S]` bool, for references and small shapes."""
        slot = torch.arange(self.keys, device=self.first.device)
        return (slot >= self.first[..., None]) & (slot < self.end[..., None])

    @cached_property
    def stretches(self) -> list[list[Stretch]]:
        """The same for a dense attention of queries that are the keys (T = S), row by row."""
        return [list(cut(*row)) for row in zip(self.first, self.end, strict=True)]

    def blocks(self, queries: int, keys: int) -> tuple[Tensor, Tensor]:
        """Which blocks meet, for blocks of `queries` queries and `keys` keys.

        Returns:
            `[B or 1, ceil(T / queries), 4]` int32: for each block of queries the key blocks to
            visit, as `low, whole_low, whole_high, high`: those in `[low, high)` hold a visible
            key; in `[whole_low, whole_high)` every query sees the whole block, so that no mask
            is needed. And the same for each block of keys, `[B or 1, ceil(S / keys), 4]`.
        """
        shape = (queries, keys)
        if shape not in self._blocks:
            some, whole = self._meet(queries, keys)
            self._blocks[shape] = (spans(some, whole), spans(some.mT, whole.mT))
        return self._blocks[shape]

    def _meet(self, queries: int, keys: int) -> tuple[Tensor, Tensor]:
        """`[B, nq, nk]` bool: blocks where some query sees some key, and where all see all."""
        pad = -self.queries % queries
        blind = self.end <= self.first
        largest = torch.iinfo(torch.int32).max
        # A blind query visits nothing, but forbids calling a block whole.
        lowest = blocked(self.first.masked_fill(blind, largest), queries, pad, largest).amin(-1)
        highest = blocked(self.end.masked_fill(blind, 0), queries, pad, 0).amax(-1)
        inner_low = blocked(self.first.masked_fill(blind, largest), queries, pad, 0).amax(-1)
        inner_high = blocked(self.end.masked_fill(blind, 0), queries, pad, largest).amin(-1)
        start = torch.arange(0, self.keys, keys, device=self.first.device, dtype=torch.int32)
        # The last block may be cut: it is whole only in full, so that its tail is masked.
        stop = start + keys
        some = (lowest[..., None] < stop) & (highest[..., None] > start)
        whole = (inner_low[..., None] <= start) & (inner_high[..., None] >= stop)
        return some, whole


def blocked(numbers: Tensor, size: int, pad: int, fill: int) -> Tensor:
    """`[B, T]` -> `[B, ceil(T / size), size]`, the last block filled up."""
    return torch.nn.functional.pad(numbers, (0, pad), value=fill).unflatten(1, (-1, size))


def spans(some: Tensor, whole: Tensor) -> Tensor:
    """`[B, n, m]` bool twice -> `[B, n, 4]` int32, the spans of `m` that `Runs.blocks` explains."""
    low, high = edges(some)
    whole_low, whole_high = edges(whole)
    # Whole blocks with others between them (layouts no model makes) are treated like those.
    broken = whole.sum(-1, dtype=torch.int32) != whole_high - whole_low
    return torch.stack(
        [low, torch.where(broken, high, whole_low).clamp(min=low, max=high),
         torch.where(broken, high, whole_high).clamp(min=low, max=high), high], dim=-1
    ).contiguous()  # fmt: skip


def edges(found: Tensor) -> tuple[Tensor, Tensor]:
    """First index and one past the last True entry, int32; 0 and 0 where there is none."""
    count = found.shape[-1]
    place = torch.arange(count, device=found.device, dtype=torch.int32)
    low = torch.where(found, place, count).amin(-1)
    high = torch.where(found, place + 1, 0).amax(-1)
    return torch.where(high > 0, low, 0).to(torch.int32), high.to(torch.int32)
