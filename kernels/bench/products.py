"""A learner's products and its fused attention, and nothing else: what torch's own cannot go below.

The result is of no use, as nothing is added, turned or routed. It is timed, and not checked, to say
how much of what a model with wings costs lies in matrix products and fused attention alone.
"""

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from wings.rotary import Rotation
from wings.routed_attention import Rule
from wings.source import Factors, Kept, Source


def routed_attention(
    q: Tensor, k: Tensor, v: Tensor, columns: Tensor, rule: Rule, way: str = "auto"
) -> tuple[Tensor, Tensor]:
    """The attention that a block of the bare language model has; no column is summed."""
    out = scaled_dot_product_attention(
        q, k, v, attn_mask=rule.mask, is_causal=rule.mask is None, enable_gqa=True
    )
    return out.transpose(1, 2), columns.new_zeros(len(q), q.shape[2], columns.shape[-1])


def learner_attention(
    x: Tensor,
    inner: Tensor,
    source: Source,
    kept: Kept,
    factors: Factors,
    rotation: Rotation,
    way: str = "auto",
) -> Tensor:
    """Three products of rank r and the attention of x over the rows, `[B, T, r]`."""
    b_q, b_k, b_v, a_o = factors
    key_part, value_part = kept.small.chunk(2, dim=-1)
    for part, factor in ((inner, b_q), (key_part, b_k), (value_part, b_v)):
        part @ factor
    q, rows = (tensor.unflatten(-1, (-1, rotation.width)) for tensor in (x, source.rows))
    return source.visibility.attend(q, rows, rows, a_o)
