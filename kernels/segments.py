"""`Segment`: consecutive queries that one call of a dense attention function can process."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

# Longest segment with a mask. Under a sliding window the mask covers the queries plus the window,
# so longer segments would compute more masked scores.
LONGEST = 256
BLIND = -1


@dataclass
class Segment:
    """Queries `[start, stop)` of a row, and the keys `[first, end)` that any of them sees.

    Attributes:
        mask: bool `[stop - start, end - first]`. None for a causal square (the keys are the
            queries' own positions) and for blind queries, which see no key.
    """

    start: int
    stop: int
    first: int
    end: int
    mask: Tensor | None = None
    _additive: dict[torch.dtype, Tensor] = field(default_factory=dict)

    @property
    def is_blind(self) -> bool:
        """True if the queries see no key."""
        return self.end == self.first

    def additive(self, dtype: torch.dtype) -> Tensor | None:
        """The mask as 0 and -inf. Cached, so that all layers save one tensor for backward."""
        if self.mask is None:
            return None
        if dtype not in self._additive:
            zeros = torch.zeros(self.mask.shape, dtype=dtype, device=self.mask.device)
            self._additive[dtype] = zeros.masked_fill(~self.mask, -torch.inf)
        return self._additive[dtype]


def split(first: Tensor, end: Tensor) -> Iterator[Segment]:
    """Splits the queries of one row of self-attention into consecutive segments.

    Args:
        first, end: `[T]`, the key range of each query, see `KeyRanges`.
    """
    first, end = first.long(), end.long()
    index = torch.arange(len(first), device=first.device)
    # A causal square starts where a sequence starts, at a query whose first key is itself. All its
    # queries have that first key and see up to themselves, so they need no mask.
    starts = first.gather(0, first.clamp(max=len(first) - 1)) == first
    square = starts & (end == index + 1)
    # One label per segment: the start of a square, BLIND, or a negative number per LONGEST queries.
    label = torch.where(square, first, BLIND - 1 - index // LONGEST)
    label = torch.where(end <= first, BLIND, label)
    labels, counts = label.unique_consecutive(return_counts=True)
    stop = 0
    for value, count in zip(labels.tolist(), counts.tolist(), strict=True):
        start, stop = stop, stop + count
        if value == BLIND:
            yield Segment(start, stop, start, start)
        elif value == start:
            yield Segment(start, stop, start, stop)
        else:
            low, high = first[start:stop], end[start:stop]
            lowest, highest = int(low.min()), int(high.max())
            keys = torch.arange(lowest, highest, device=first.device)
            mask = (keys >= low[:, None]) & (keys < high[:, None])
            yield Segment(start, stop, lowest, highest, mask)
