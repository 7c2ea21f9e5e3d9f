"""Attention over the keys that a `Layout` lets each token see, without a stored T x S matrix."""

from copy import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .layout import PADDING, Layout

# Queries per call where a mask is made: the mask and its float copy stay this tall at any length.
BLOCK = 256


@dataclass
class Span:
    """Queries of one row that share a run of keys: all of it, or causally one key more each."""

    queries: Tensor
    first: int
    end: int
    causal: bool


class Visibility:
    """Which of some keys each query sees, and attention under that rule.

    Both are layouts (`[B, T]` and `[B, S]`); each row of keys stands in order, padding last. Made
    once per forward and used by every layer. Rows of up to 256 queries take one masked call. A mask
    that autograd keeps would grow with T x S in every layer, so longer rows are cut into spans that
    need none; where tokens came before (`continued`, which is decoding and has no gradient) they
    would fall into many, so a block of queries at a time takes a masked call there.
    """

    def __init__(self, queries: Layout, keys: Layout, continued: bool) -> None:
        self.queries, self.keys = queries, keys
        self.spans: list[list[Span]] = []
        self.mask: Tensor | None = None
        if len(queries) <= BLOCK:
            self.mask = queries.sees(keys)[:, None]
        elif not continued:
            self.spans = [cut_spans(q, k) for q, k in zip(queries.table, keys.table, strict=True)]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """softmax(q k^T / sqrt(d)) v over the visible keys; exact zeros where there are none.

        q `[B, H, T, d]`, k and v `[B, H, S, d]`, all of one dtype -> `[B, H, T, d]`.
        """
        if self.mask is not None:
            return masked_attention(q, k, v, self.mask)
        if self.spans:
            rows = zip(q.split(1), k.split(1), v.split(1), self.spans, strict=True)
            return torch.cat([span_attention(*row) for row in rows])
        return torch.cat(
            [
                masked_attention(block, k, v, Layout(table).sees(self.keys)[:, None])
                for block, table in zip(
                    q.split(BLOCK, 2), self.queries.table.split(BLOCK, 1), strict=True
                )
            ],
            dim=2,
        )

    def to(self, device: torch.device) -> "Visibility":
        """A copy on `device`."""
        moved = copy(self)
        moved.queries, moved.keys = self.queries.to(device), self.keys.to(device)
        moved.mask = None if self.mask is None else self.mask.to(device)
        moved.spans = [
            [replace(span, queries=span.queries.to(device)) for span in row] for row in self.spans
        ]
        return moved


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention under `mask [B, 1, T, S]` (bool), with exact zeros for queries that see nothing."""
    blind = ~mask.any(-1, keepdim=True)
    # A softmax over nothing is 0 / 0, forward and backward: blind queries see every key, and their
    # result is dropped.
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask | blind)
    return out.masked_fill(blind, 0.0)


def span_attention(q: Tensor, k: Tensor, v: Tensor, spans: list[Span]) -> Tensor:
    """Attention of one row, span by span, without a mask; q `[1, H, T, d]` -> `[1, H, T, d]`."""
    pieces = []
    for span in spans:
        queries = q.index_select(2, span.queries)
        run = slice(span.first, span.end)
        pieces.append(
            scaled_dot_product_attention(queries, k[:, :, run], v[:, :, run], is_causal=span.causal)
            if span.end > span.first
            else queries * 0.0
        )
    order = torch.cat([span.queries for span in spans])
    return torch.cat(pieces, dim=2).index_select(2, order.argsort())


def cut_spans(queries: Tensor, keys: Tensor) -> list[Span]:
    """Cuts the queries of one row (tables `[T, 5]` and `[S, 5]`) into spans.

    Text keys open one by one: the queries that are such keys themselves form a causal square in
    each sequence. All other queries with the same run of keys see the whole of it.
    """
    first, end = visible_runs(queries, keys)
    spans, rest = [], torch.ones_like(first, dtype=torch.bool)
    for segment in queries[:, 2].unique():
        size = torch.where(queries[:, 2] == segment, end - first, 0)
        largest_before = torch.cat([size.new_zeros(1), size.cummax(0).values[:-1]])
        grows = size > largest_before
        square = grows & (size == grows.cumsum(0))
        if square.sum() > 1:
            where = square.nonzero()[:, 0]
            start = int(first[where[0]])
            spans.append(Span(where, start, start + len(where), causal=True))
            rest &= ~square
    where = rest.nonzero()[:, 0]
    runs, index = torch.stack([first, end], dim=1)[where].unique(dim=0, return_inverse=True)
    for number, (start, stop) in enumerate(runs.tolist()):
        spans.append(Span(where[index == number], start, stop, causal=False))
    return spans


def visible_runs(queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """The run `[first, end)` of keys that each query of one row sees, `[T]` each."""
    # One number orders keys by sequence, then by the position that opens them; padding comes last.
    stride = int(max(queries[:, 0].max(), keys[:, 1].max())) + 2
    opens = torch.where(
        keys[:, 3] == PADDING, torch.iinfo(torch.long).max, keys[:, 2] * stride + keys[:, 1]
    )
    start = queries[:, 2] * stride
    first = torch.searchsorted(opens, start)
    end = torch.searchsorted(opens, start + queries[:, 0], right=True)
    padding = queries[:, 3] == PADDING
    return first.masked_fill(padding, 0), end.masked_fill(padding, 0)
