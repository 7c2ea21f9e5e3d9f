"""Routed attention: softmax attention that also sums per-key columns, averaged over heads.

The router's evidence is the main attention's own weights. Asking for them as a matrix would cost
T x S memory a layer; appended to the values as further columns they cost a few numbers a token.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from wings.kernels.key_ranges import KeyRanges

# Queries per block where scores are written out (soft caps, sinks), which bounds their memory, and
# the most under one mask, of which autograd keeps a copy in every layer.
BLOCK = 256


@dataclass(frozen=True)
class Rule:
    """The way from scores to weights.

    `mask`: bool `[B or 1, 1, T, S]`, True where a query sees a key, or None for causal (the last
    query sees every key). `scale`: factor of q k^T. `softcap`: scores become cap * tanh(score /
    cap). `sinks`: `[H]` scores that take weight and give no value. `dropout`: of the weights.
    `ranges`: gives the mask as ranges of keys, which kernels and long rows take, or None where that
    is not possible.
    """

    mask: Tensor | None
    scale: float
    softcap: float | None = None
    sinks: Tensor | None = None
    dropout: float = 0.0
    ranges: Callable[[], KeyRanges | None] | None = None


def routed_attention(
    q: Tensor, k: Tensor, v: Tensor, columns: Tensor, rule: Rule
) -> tuple[Tensor, Tensor]:
    """Attention output and head-averaged, attention-weighted sums of per-key columns.

    Args:
        q: `[B, H, T, d]`, after rotary positions.
        k: `[B, G, S, d]` with G dividing H.
        v: `[B, G, S, e]`.
        columns: `[B, S, C]`, a few numbers per key.
        rule: mask, scale and what else lies between scores and weights.

    Returns:
        The output `[B, T, H, e]` in q's dtype, and the sums `[B, T, C]` in `columns`' dtype.
    """
    if q.shape[2] == 1:
        return one_query(q, k, v, columns, rule)
    # Every head attends to the same columns; a view costs no memory where kernels read strides.
    width, count = v.shape[-1], columns.shape[-1]
    columns_of_heads = columns.to(v.dtype)[:, None].expand(-1, v.shape[1], -1, -1)
    if rule.softcap is None and rule.sinks is None:
        out = padded_attention(q, k, [v, columns_of_heads], rule)
    else:
        group = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(group, 1), torch.cat([v, columns_of_heads], dim=-1)
        out = textbook_attention(q, k, v.repeat_interleave(group, 1), rule)
    out, sums = out[..., :width], out[..., width : width + count]
    return out.transpose(1, 2).contiguous(), sums.mean(1).to(columns.dtype)


def padded_attention(q: Tensor, k: Tensor, values: list[Tensor], rule: Rule) -> Tensor:
    """torch's fused attention, which needs q, k and v of one width: zeros make up the difference.

    q `[B, H, T, d]`, k `[B, G, S, d]`, values `[B, G, S, ...]`, to be joined -> `[B, H, T, >= e]`.
    """
    width = -(-max(q.shape[-1], sum(v.shape[-1] for v in values)) // 8) * 8
    q, k, v = (widened(parts, width) for parts in ([q], [k], values))
    # `is_causal` of torch aligns the first query with the first key, right only for a square.
    square = q.shape[2] == k.shape[2]
    if rule.mask is not None and square and q.shape[2] > BLOCK and rule.ranges is not None:
        ranges = None if torch.compiler.is_compiling() else rule.ranges()
        if ranges is not None:
            return segmented_attention(q, k, v, ranges, rule)
    mask = rule.mask if rule.mask is not None or square else causal_mask(q, k)
    return fused_attention(q, k, v, mask, rule)


def fused_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, rule: Rule) -> Tensor:
    """torch's own, of one width; causal without a mask."""
    # With a mask, groups of heads keep torch's fused kernels from running on a GPU.
    grouped = q.device.type == "cpu" or mask is None
    if not grouped:
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    return scaled_dot_product_attention(
        q, k, v,
        attn_mask=mask,
        is_causal=mask is None,
        dropout_p=rule.dropout,
        scale=rule.scale,
        enable_gqa=grouped,
    )  # fmt: skip


def segmented_attention(q: Tensor, k: Tensor, v: Tensor, ranges: KeyRanges, rule: Rule) -> Tensor:
    """Long rows with padding, several sequences or a window, without a T x S mask.

    q `[B, H, T, d]`, k and v `[B, G, T, d]` -> `[B, H, T, d]`; zeros for queries without a key.
    """
    rows = []
    segments = ranges.segments * (len(q) // len(ranges.segments))
    for own, *row in zip(segments, q.split(1), k.split(1), v.split(1), strict=True):
        # Not slices: the backward of each would write a whole row.
        sizes = [segment.stop - segment.start for segment in own]
        pieces = []
        parts = (x.split(sizes, dim=2) for x in row)
        for segment, query, key, value in zip(own, *parts, strict=True):
            if segment.is_blind:
                pieces.append(torch.zeros_like(query))
                continue
            if segment.mask is not None:
                key, value = (x[:, :, segment.first : segment.end] for x in row[1:])
            mask = segment.additive(query.dtype)
            pieces.append(fused_attention(query, key, value, mask, rule))
        rows.append(torch.cat(pieces, dim=2))
    return torch.cat(rows)


def widened(parts: list[Tensor], width: int) -> Tensor:
    """Parts side by side, with zeros up to `width`; one copy, or none."""
    missing = width - sum(part.shape[-1] for part in parts)
    if missing:
        zeros = parts[0].new_zeros(()).expand(*parts[0].shape[:-1], missing)
        parts = [*parts, zeros]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def one_query(
    q: Tensor, k: Tensor, v: Tensor, columns: Tensor, rule: Rule
) -> tuple[Tensor, Tensor]:
    """`routed_attention` while decoding: plain arithmetic, no key or value is copied."""
    batch, heads, _, width = q.shape
    groups = k.shape[1]
    weights = attention_weights(q.reshape(batch, groups, -1, width), k, rule)
    of_groups = weights.to(v.dtype).flatten(0, 1)
    out = torch.bmm(of_groups, v.flatten(0, 1)).view(batch, 1, heads, -1)
    mean = weights.view(batch, heads, -1).mean(1, keepdim=True)
    return out, torch.bmm(mean.to(columns.dtype), columns)


def textbook_attention(q: Tensor, k: Tensor, v: Tensor, rule: Rule) -> Tensor:
    """The definition, a block of queries at a time; training keeps no block's weights.

    q, k `[B, H, T or S, d]`, v `[B, H, S, e]` -> `[B, H, T, e]`.
    """

    def block(start: int) -> Tensor:
        rows = slice(start, start + BLOCK)
        mask = causal_mask(q, k, rows) if rule.mask is None else rule.mask[:, :, rows]
        part = Rule(mask, rule.scale, rule.softcap, rule.sinks, rule.dropout)
        return attention_weights(q[:, :, rows], k, part).to(v.dtype) @ v

    starts = range(0, q.shape[2], BLOCK)
    if len(starts) <= 1:
        return block(0)
    return torch.cat([checkpoint(block, start, use_reentrant=False) for start in starts], dim=2)


def attention_weights(q: Tensor, k: Tensor, rule: Rule) -> Tensor:
    """The weights themselves, `[B, H, T, S]`, at least in float32; without a mask, of every key.

    k has q's heads, or q is one query and stands as `[B, G, H / G, d]` beside k `[B, G, S, d]`.
    """
    pairs = q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2)
    scores = torch.baddbmm(q.new_zeros(1, 1, 1), *pairs, beta=0, alpha=rule.scale)
    scores = scores.view(*q.shape[:3], -1)
    if rule.softcap is not None:
        scores = rule.softcap * torch.tanh(scores / rule.softcap)
    if rule.mask is not None:
        scores = scores.masked_fill(~rule.mask, torch.finfo(scores.dtype).min)
    dtype = torch.promote_types(scores.dtype, torch.float32)
    if rule.sinks is None:
        weights = scores.softmax(-1, dtype=dtype)
    else:
        sinks = rule.sinks.to(scores.dtype).view(1, q.shape[1], -1, 1)
        sinks = sinks.expand(*scores.shape[:3], 1)
        weights = torch.cat([scores, sinks], -1).softmax(-1, dtype=dtype)[..., :-1]
    if rule.mask is not None:
        # Queries without a key (padding) would otherwise weigh all keys alike.
        weights = weights.masked_fill(~rule.mask.any(-1, keepdim=True), 0.0)
    return torch.nn.functional.dropout(weights, rule.dropout)


def causal_mask(q: Tensor, k: Tensor, rows: slice = slice(None)) -> Tensor:
    """`[1, 1, T, S]` bool for `rows` of the queries; the last query sees every key."""
    length, size = q.shape[2], k.shape[2]
    query = torch.arange(size - length, size, device=q.device)[rows]
    return (torch.arange(size, device=q.device) <= query[:, None])[None, None]
