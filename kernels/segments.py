"""`Stretch`: neighbouring queries whose runs of keys one call of a dense attention can take."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

# Queries under one mask where runs are no causal squares: under a window a mask is as wide as both.
LONGEST = 256
BLIND = -1


@dataclass
class Stretch:
    """Queries `[start, stop)` of a row, and the keys `[first, end)` that any of them sees.

    mask: bool `[stop - start, end - first]`, or None where the keys are the queries' own and each
    sees those up to itself. Blind queries have no keys.
    """

    start: int
    stop: int
    first: int
    end: int
    mask: Tensor | None = None
    _additive: dict[torch.dtype, Tensor] = field(default_factory=dict)

    @property
    def is_blind(self) -> bool:
        return self.end == self.first

    def additive(self, dtype: torch.dtype) -> Tensor | None:
        """The mask as numbers to add to scores: one tensor for all that a backward keeps it for."""
        if self.mask is None:
            return None
        if dtype not in self._additive:
            zeros = torch.zeros(self.mask.shape, dtype=dtype, device=self.mask.device)
            self._additive[dtype] = zeros.masked_fill(~self.mask, -torch.inf)
        return self._additive[dtype]


def cut(first: Tensor, end: Tensor) -> Iterator[Stretch]:
    """Cuts the queries of one row, which are its keys too, into stretches that follow one another.

    first, end: `[T]`, the run of each, see `Runs`.
    """
    first, end = first.long(), end.long()
    slot = torch.arange(len(first), device=first.device)
    # In a sequence every query sees the keys from its first token to itself.
    leads = first.gather(0, first.clamp(max=len(first) - 1)) == first
    square = leads & (end == slot + 1)
    label = torch.where(square, first, BLIND - 1 - slot // LONGEST)
    label = torch.where(end <= first, BLIND, label)
    labels, counts = label.unique_consecutive(return_counts=True)
    stop = 0
    for name, count in zip(labels.tolist(), counts.tolist(), strict=True):
        start, stop = stop, stop + count
        if name == BLIND:
            yield Stretch(start, stop, start, start)
        elif name == start:
            yield Stretch(start, stop, start, stop)
        else:
            low, high = first[start:stop], end[start:stop]
            lowest, highest = int(low.min()), int(high.max())
            keys = torch.arange(lowest, highest, device=first.device)
            mask = (keys >= low[:, None]) & (keys < high[:, None])
            yield Stretch(start, stop, lowest, highest, mask)
