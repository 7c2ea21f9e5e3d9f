"""A learner's products and its fused attention, and nothing else: what torch's own cannot go below.

The result is of no use, as nothing is added, turned or routed. It is timed, and not checked, to say
how much of what a model with wings costs lies in matrix products and fused attention alone.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from wings.attention.rotary import Rotation
from wings.attention.routed_attention import Rule
from wings.attention.source_tokens import Kept, Source
from wings.layers.lorra import Factors


def routed_attention(
    q: Tensor, k: Tensor, v: Tensor, columns: Tensor, rule: Rule, way: str = "auto"
) -> tuple[Tensor, Tensor]:
    """The attention that a block of the bare language model has; no column is summed."""
    causal = rule.mask is None and q.shape[2] > 1
    out = scaled_dot_product_attention(
        q, k, v, attn_mask=rule.mask, is_causal=causal, enable_gqa=True
    )
    return out.transpose(1, 2), columns.new_zeros(len(q), q.shape[2], columns.shape[-1])


def learner_attention(
    x: Tensor,
    inner: Tensor,
    source: Source,
    kept: Kept,
    factors: tuple[Tensor, Tensor, Tensor, Tensor],
    rotation: Rotation,
    way: str = "auto",
) -> Tensor:
    """Three products of rank r and the attention of x over the rows, `[B, T, r]`."""
    b_q, b_k, b_v, a_o = factors
    key_part, value_part = kept.small.unbind(1)
    for part, factor in ((inner, b_q), (key_part, b_k), (value_part, b_v)):
        part @ factor
    q, rows = (tensor.unflatten(-1, (-1, rotation.width)) for tensor in (x, source.rows))
    return source.visibility.attend(q, rows, rows, a_o)


def share_of_one_token(
    x: Tensor,
    factors: list[Factors],
    sources: list[Source],
    kept: list[Kept],
    weights: list[Tensor],
    rotation: Rotation,
) -> Tensor:
    """For one token: a product with each factor, with each key and with each value, `[B, 1, D]`."""
    row, share = x[:, 0], x
    batch, width = len(row), rotation.width
    for own, source, of_rows in zip(factors, sources, kept, strict=True):
        keys = source.turned if of_rows.keys is None else of_rows.keys
        q = row @ own.a_q @ own.b_q
        scores = torch.bmm(q.view(-1, 1, width), keys.flatten(0, 1))
        out = torch.bmm(scores, source.heads)
        torch.bmm(scores.view(batch, -1, scores.shape[-1]), of_rows.small[:, 1])
        # As many numbers of B_v are read as when it is applied head by head.
        row[:, : own.rank] @ own.b_v
        share = (out.view(batch, -1) @ own.a_o @ own.b_o)[:, None]
    return share
