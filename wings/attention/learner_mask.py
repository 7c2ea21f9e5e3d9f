"""Attention over the keys that a `Layout` lets each token see, without a stored T x S matrix."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from wings.kernels.key_ranges import KeyRanges

from .token_layout import PADDING, Layout

# Queries per call where a mask is made: the mask and its float copy stay this tall at any length.
BLOCK = 256


@dataclass
class Span:
    """Queries of one row that share a run of keys: all of it, or causally one key more each."""

    queries: Tensor
    first: int
    end: int
    causal: bool
    # Whether the queries stand one after another, so that a view can replace a copy.
    start: int | None = None

    def of(self, rows: Tensor) -> Tensor:
        """The span's rows of `[1, T, ...]`."""
        if self.start is not None:
            return rows[:, self.start : self.start + len(self.queries)]
        return rows.index_select(1, self.queries)


class Visibility:
    """Which of some keys each query sees, and attention under that rule.

    Both are layouts (`[B, T]` and `[B, S]`). Made once per forward and used by every layer. Rows of
    up to 256 queries take one masked call. A mask that autograd keeps would grow with T x S in
    every layer, so longer rows are cut into spans that need none; where tokens came before
    (`continued`, which is decoding and has no gradient) they would fall into many, so a block of
    queries at a time takes a masked call there. Spans and runs need each row of keys in order,
    with its padding last; a mask does not.
    """

    def __init__(self, queries: Layout, keys: Layout, continued: bool) -> None:
        self.queries, self.keys, self.continued = queries, keys, continued
        # `[B, T, S]` bool where one masked call does, else None.
        self.mask = queries.sees(keys) if len(queries) <= BLOCK else None
        # `[B, T]` bool: queries with at least one visible key.
        self.sees_any = self._find_any()
        self.hidden: Tensor | None = None
        self.sees_all = False
        if self.mask is not None and len(queries) == 1:
            # The keys that the query does not see: none where it sees none, or weights were NaN.
            self.hidden = ~(self.mask | ~self.sees_any[..., None])
            # Elsewhere than on a CPU the answer would cost more than the masking.
            asks = self.mask.device.type == "cpu" and not torch.compiler.is_compiling()
            self.sees_all = asks and bool(self.mask.all())

    def _find_any(self) -> Tensor:
        if self.mask is not None:
            return self.mask.any(-1)
        if not self.continued:
            return self.runs.end > self.runs.first
        return torch.cat([block.sees(self.keys).any(-1) for block in self._blocks()], dim=1)

    @cached_property
    def runs(self) -> KeyRanges:
        """The same rule as runs of keys."""
        return KeyRanges(*visible_runs(self.queries, self.keys), len(self.keys))

    @cached_property
    def spans(self) -> list[list[Span]]:
        """The same rule as spans, for each row."""
        first, end = self.runs.first.long(), self.runs.end.long()
        rows = zip(self.queries.segment, first, end, strict=True)
        return [cut_spans(*row) for row in rows]

    @cached_property
    def orders(self) -> list[Tensor | None]:
        """Of each row: where a query stands in what its spans give in turn; None if in order."""
        given = [torch.cat([span.queries for span in spans]) for spans in self.spans]
        return [None if bool((row.diff() > 0).all()) else row.argsort() for row in given]

    def weigh(self, scores: Tensor) -> Tensor:
        """Softmax of one query's `scores [B, H, S]` over what it sees; zeros if nothing."""
        if self.sees_all:
            return scores.softmax(-1, dtype=torch.float32).to(scores.dtype)
        assert self.hidden is not None, "only the scores of a single query are weighed"
        weights = scores.masked_fill(self.hidden, -torch.inf).softmax(-1, dtype=torch.float32)
        return weights.to(scores.dtype).masked_fill(~self.sees_any[..., None], 0.0)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, last: Tensor) -> Tensor:
        """softmax(q k^T / sqrt(d)) v, heads joined, times `last`; exact zeros without a key.

        q `[B, T, H, d]`, k and v `[B, S, H, d]`, last `[H d, r]`, of one dtype -> `[B, T, r]`.
        """
        if self.mask is not None:
            return masked_attention(q, k, v, last, self.mask)
        if not self.continued:
            rows = zip(q.split(1), k.split(1), v.split(1), self.spans, self.orders, strict=True)
            return torch.cat([span_attention(*row[:3], last, *row[3:]) for row in rows])
        blocks = zip(q.split(BLOCK, 1), self._blocks(), strict=True)
        return torch.cat(
            [masked_attention(part, k, v, last, block.sees(self.keys)) for part, block in blocks],
            dim=1,
        )

    def _blocks(self) -> list[Layout]:
        return [Layout(table) for table in self.queries.table.split(BLOCK, 1)]

    def to(self, device: torch.device) -> "Visibility":
        """The same on `device`."""
        return Visibility(self.queries.to(device), self.keys.to(device), self.continued)


def masked_attention(q: Tensor, k: Tensor, v: Tensor, last: Tensor, mask: Tensor) -> Tensor:
    """`Visibility.attend` under `mask [B, T, S]` (bool)."""
    blind = ~mask.any(-1, keepdim=True)
    # A softmax over nothing is 0 / 0, forward and backward: blind queries see every key, and their
    # result is dropped.
    q, k, v = (rows.transpose(1, 2) for rows in (q, k, v))
    out = scaled_dot_product_attention(q, k, v, attn_mask=(mask | blind)[:, None])
    return (out.transpose(1, 2).flatten(2) @ last).masked_fill(blind, 0.0)


def span_attention(
    q: Tensor, k: Tensor, v: Tensor, last: Tensor, spans: list[Span], order: Tensor | None
) -> Tensor:
    """`Visibility.attend` of one row, span by span, without a mask."""
    pieces = []
    for span in spans:
        if span.end == span.first:
            pieces.append(q.new_zeros(1, len(span.queries), last.shape[1]))
            continue
        run = slice(span.first, span.end)
        query, key, value = (x.transpose(1, 2) for x in (span.of(q), k[:, run], v[:, run]))
        out = scaled_dot_product_attention(query, key, value, is_causal=span.causal)
        pieces.append(out.transpose(1, 2).flatten(2) @ last)
    out = torch.cat(pieces, dim=1)
    # Put back in order after the last product: r numbers a token move, not the heads.
    return out if order is None else out.index_select(1, order)


def cut_spans(segment: Tensor, first: Tensor, end: Tensor) -> list[Span]:
    """Cuts the queries of one row into spans, from their sequences and runs, `[T]` each.

    Text keys open one by one: the queries that are such keys themselves form a causal square in
    each sequence. All other queries with the same run of keys see the whole of it.
    """
    spans, rest = [], torch.ones_like(first, dtype=torch.bool)
    for number in segment.unique():
        size = torch.where(segment == number, end - first, 0)
        largest_before = torch.cat([size.new_zeros(1), size.cummax(0).values[:-1]])
        grows = size > largest_before
        square = grows & (size == grows.cumsum(0))
        if square.sum() > 1:
            where = square.nonzero()[:, 0]
            start = int(first[where[0]])
            spans.append(Span(where, start, start + len(where), causal=True))
            rest &= ~square
    where = rest.nonzero()[:, 0]
    stride = int(end.max()) + 1
    runs, index = (first * stride + end)[where].unique(return_inverse=True)
    for number, run in enumerate(runs.tolist()):
        opens, closes = divmod(run, stride)
        spans.append(Span(where[index == number], opens, closes, causal=False))
    return [replace(span, start=start_of(span.queries)) for span in spans]


def start_of(queries: Tensor) -> int | None:
    """The first of queries that stand one after another, else None."""
    start = int(queries[0])
    return start if int(queries[-1]) - start == len(queries) - 1 else None


def visible_runs(queries: Layout, keys: Layout) -> tuple[Tensor, Tensor]:
    """The run `[first, end)` of keys that each query sees, `[B, T]` each."""
    # One number orders keys by sequence, then by the position that opens them; padding comes last.
    stride = torch.maximum(queries.position.max(), keys.visible_from.max()) + 2
    opens = torch.where(
        keys.kind == PADDING,
        torch.iinfo(torch.long).max,
        keys.segment * stride + keys.visible_from,
    ).contiguous()
    start = queries.segment * stride
    first = torch.searchsorted(opens, start)
    end = torch.searchsorted(opens, start + queries.position, right=True)
    padding = queries.kind == PADDING
    return first.masked_fill(padding, 0), end.masked_fill(padding, 0)
