"""`LearnerMask`: the source tokens that each query of a learner sees."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wings.kernels.key_ranges import KeyRanges

from .token_layout import PADDING, TokenLayout

# Queries per call where a mask is made: the mask and its float copy stay this tall at any length.
BLOCK = 256


@dataclass(frozen=True)
class QuerySegment:
    """Queries of one row that share a range of keys: all of it, or causally one key more each."""

    queries: Tensor
    first: int
    end: int
    causal: bool
    # The first of consecutive queries, where a view can replace a copy; else None.
    start: int | None = None

    def of(self, rows: Tensor) -> Tensor:
        """The segment's rows of `[1, T, ...]`."""
        if self.start is not None:
            return rows[:, self.start : self.start + len(self.queries)]
        return rows.index_select(1, self.queries)


class LearnerMask:
    """The rule of `TokenLayout` between the queries of a pass and one learner's source tokens.

    Made once a pass and read by every block. It holds one of three forms:

    - a bool mask, for up to 256 queries;
    - ranges of keys, cut into segments that need no mask. Autograd would keep a mask of longer rows
      in every block, T x S bytes each;
    - blocks of 256 queries that each make their mask when it is used, where tokens came before
      (`continued`). Segments would be many there, and nothing is kept, as there is no gradient.

    Ranges need the keys of a row in order, with padding last; a mask does not.

    Attributes:
        mask: `[B, T, S]` bool, or None.
        sees_any: `[B, T]` bool, queries with at least one visible key.
        ranges: the same rule as ranges of keys; None where tokens came before, or beside a mask
            unless `fused`.
        segments: of each row, the segments and the order that puts their results in place.
        blocks: layouts of 256 queries each, or ().
        hidden: of a single query, `[B, 1, S]` bool: keys without weight; None where it sees all. A
            query without a key hides none of them in torch, and all of them if `fused`.
    """

    def __init__(
        self, queries: TokenLayout, keys: TokenLayout, continued: bool, fused: bool = False
    ) -> None:
        self.queries, self.keys, self.continued, self.fused = queries, keys, continued, fused
        self.mask = queries.sees(keys) if queries.length <= BLOCK else None
        self.ranges: KeyRanges | None = None
        self.segments: list[tuple[list[QuerySegment], Tensor | None]] = []
        self.blocks: list[TokenLayout] = []
        if not continued and ((fused and queries.length > 1) or self.mask is None):
            self.ranges = KeyRanges(*visible_ranges(queries, keys), keys.length)
        if self.mask is not None:
            self.sees_any = self.mask.any(-1)
        elif self.ranges is not None:
            self.sees_any = self.ranges.end > self.ranges.first
            if not fused:
                first, end = self.ranges.first.long(), self.ranges.end.long()
                rows = zip(queries.segment, first, end, strict=True)
                self.segments = [cut_segments(*row) for row in rows]
        else:
            self.blocks = queries.blocks(BLOCK)
            self.sees_any = torch.cat([part.sees(keys).any(-1) for part in self.blocks], dim=1)
        self.hidden: Tensor | None = None
        if self.mask is not None and queries.length == 1:
            # Asking whether all is visible costs more than masking where the host would wait.
            asks = self.mask.device.type == "cpu" and not torch.compiler.is_compiling()
            if not (asks and bool(self.mask.all())):
                # A softmax over nothing is NaN in torch.
                self.hidden = ~(self.mask if fused else self.mask | ~self.sees_any[..., None])

    def to(self, device: torch.device) -> "LearnerMask":
        """A copy on `device`."""
        queries, keys = self.queries.to(device), self.keys.to(device)
        return LearnerMask(queries, keys, self.continued, self.fused)


def cut_segments(
    sequence: Tensor, first: Tensor, end: Tensor
) -> tuple[list[QuerySegment], Tensor | None]:
    """Segments of the queries of one row, from their sequences and ranges of keys, `[T]` each.

    Text keys become visible one by one: queries that are such keys themselves form a causal square
    in each sequence. All other queries with the same range of keys see the whole of it.

    Returns:
        The segments, and the index of each query in their joined results, None if in order.
    """
    segments, rest = [], torch.ones_like(first, dtype=torch.bool)
    for number in sequence.unique():
        size = torch.where(sequence == number, end - first, 0)
        largest_before = torch.cat([size.new_zeros(1), size.cummax(0).values[:-1]])
        grows = size > largest_before
        square = grows & (size == grows.cumsum(0))
        if square.sum() > 1:
            where = square.nonzero()[:, 0]
            start = int(first[where[0]])
            segments.append(QuerySegment(where, start, start + len(where), causal=True))
            rest &= ~square
    where = rest.nonzero()[:, 0]
    stride = int(end.max()) + 1
    ranges, index = (first * stride + end)[where].unique(return_inverse=True)
    for number, packed in enumerate(ranges.tolist()):
        opens, closes = divmod(packed, stride)
        segments.append(QuerySegment(where[index == number], opens, closes, causal=False))
    segments = [replace(segment, start=_start_of(segment.queries)) for segment in segments]
    order = torch.cat([segment.queries for segment in segments])
    return segments, None if bool((order.diff() > 0).all()) else order.argsort()


def _start_of(queries: Tensor) -> int | None:
    """The first of consecutive queries, else None."""
    start = int(queries[0])
    return start if int(queries[-1]) - start == len(queries) - 1 else None


def visible_ranges(queries: TokenLayout, keys: TokenLayout) -> tuple[Tensor, Tensor]:
    """The range `[first, end)` of keys that each query sees, `[B, T]` each."""
    # One number orders keys by sequence, then by the position that first sees them; padding last.
    stride = torch.maximum(queries.position.max(), keys.visible_at.max()) + 2
    opens = torch.where(
        keys.kind == PADDING,
        torch.iinfo(torch.long).max,
        keys.segment * stride + keys.visible_at,
    ).contiguous()
    start = queries.segment * stride
    first = torch.searchsorted(opens, start)
    end = torch.searchsorted(opens, start + queries.position, right=True)
    padding = queries.kind == PADDING
    return first.masked_fill(padding, 0), end.masked_fill(padding, 0)
