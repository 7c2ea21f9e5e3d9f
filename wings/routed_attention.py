"""Routed attention: softmax attention that also sums per-key columns, averaged over heads.

The router's evidence is the main attention's own weights. Asking for them as a matrix would cost
T x S memory a layer; appended to the values as further columns they cost a few numbers a token.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

# Queries per block where scores are written out (soft caps, sinks): bounds their memory.
BLOCK = 256


@dataclass
class Rule:
    """How scores become weights.

    `mask`: bool `[B or 1, 1, T, S]`, True where a query sees a key, or None for causal (the last
    query sees every key). `scale`: factor of q k^T. `softcap`: scores become cap * tanh(score /
    cap). `sinks`: `[H]` scores that take weight and give no value. `dropout`: of the weights.
    """

    mask: Tensor | None
    scale: float
    softcap: float | None = None
    sinks: Tensor | None = None
    dropout: float = 0.0


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
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    width, count = v.shape[-1], columns.shape[-1]
    v = torch.cat([v, columns.to(v.dtype)[:, None].expand(-1, v.shape[1], -1, -1)], dim=-1)
    if rule.softcap is None and rule.sinks is None and q.shape[2] > 1:
        out = padded_attention(q, k, v, rule)
    else:
        out = textbook_attention(q, k, v, rule)
    out, sums = out[..., :width], out[..., width : width + count]
    return out.transpose(1, 2).contiguous(), sums.mean(1).to(columns.dtype)


def padded_attention(q: Tensor, k: Tensor, v: Tensor, rule: Rule) -> Tensor:
    """torch's fused attention, which needs q, k and v of one width: zeros make up the difference.

    q, k `[B, H, T or S, d]`, v `[B, H, S, e]` -> `[B, H, T, at least e]`.
    """
    width = -(-max(q.shape[-1], v.shape[-1]) // 8) * 8
    q, k, v = (pad(x, (0, width - x.shape[-1])) for x in (q, k, v))
    square = q.shape[2] == k.shape[2]
    return scaled_dot_product_attention(
        q, k, v,
        attn_mask=rule.mask if rule.mask is not None or square else causal_mask(q, k),
        is_causal=rule.mask is None and square,
        dropout_p=rule.dropout,
        scale=rule.scale,
    )  # fmt: skip


def textbook_attention(q: Tensor, k: Tensor, v: Tensor, rule: Rule) -> Tensor:
    """The definition, a block of queries at a time; training keeps no block's weights.

    q, k `[B, H, T or S, d]`, v `[B, H, S, e]` -> `[B, H, T, e]`.
    """
    if q.shape[2] <= BLOCK:
        return attention_weights(q, k, rule).to(v.dtype) @ v

    def block(start: int) -> Tensor:
        rows = slice(start, start + BLOCK)
        mask = causal_mask(q, k, rows) if rule.mask is None else rule.mask[:, :, rows]
        part = Rule(mask, rule.scale, rule.softcap, rule.sinks, rule.dropout)
        return attention_weights(q[:, :, rows], k, part).to(v.dtype) @ v

    starts = range(0, q.shape[2], BLOCK)
    return torch.cat([checkpoint(block, start, use_reentrant=False) for start in starts], dim=2)


def attention_weights(q: Tensor, k: Tensor, rule: Rule) -> Tensor:
    """The weights themselves, `[B, H, T, S]`, at least in float32; k has q's heads."""
    scores = q @ k.transpose(2, 3) * rule.scale
    if rule.softcap is not None:
        scores = rule.softcap * torch.tanh(scores / rule.softcap)
    mask = causal_mask(q, k) if rule.mask is None else rule.mask
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    dtype = torch.promote_types(scores.dtype, torch.float32)
    if rule.sinks is None:
        weights = scores.softmax(-1, dtype=dtype)
    else:
        sinks = rule.sinks.to(scores.dtype)[None, :, None, None].expand(*scores.shape[:3], 1)
        weights = torch.cat([scores, sinks], -1).softmax(-1, dtype=dtype)[..., :-1]
    # Queries without a key (padding) would otherwise weigh all keys alike.
    weights = weights.masked_fill(~mask.any(-1, keepdim=True), 0.0)
    return torch.nn.functional.dropout(weights, rule.dropout)


def causal_mask(q: Tensor, k: Tensor, rows: slice = slice(None)) -> Tensor:
    """`[1, 1, T, S]` bool for `rows` of the queries; the last query sees every key."""
    length, size = q.shape[2], k.shape[2]
    query = torch.arange(size - length, size, device=q.device)[rows]
    return (torch.arange(size, device=q.device) <= query[:, None])[None, None]
