"""Both operations as a textbook has them: every matrix of weights written out, nothing fused.

In float64 they are the definitions that checks compare with; in a model's own precision they are
what the faster versions are measured against.
"""

import torch
from torch import Tensor


def routed_attention(
    q: Tensor, k: Tensor, v: Tensor, columns: Tensor, sees: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """out_h = P_h v with P = softmax(scale q k^T), and the mean over heads of P_h columns.

    Args:
        q: `[B, H, T, d]`.
        k: `[B, G, S, d]`, G dividing H.
        v: `[B, G, S, e]`.
        columns: `[B, S, C]`.
        sees: `[B or 1, T, S]` bool.
        scale: of the scores.

    Returns:
        `[B, T, H, e]` in q's dtype, `[B, T, C]` in `columns`' dtype.
    """
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    weights = attention_weights(q, k, sees, scale)
    sums = weights.mean(1).to(columns.dtype) @ columns
    return (weights @ v).transpose(1, 2), sums


def learner_attention(
    x: Tensor,
    inner: Tensor,
    rows: Tensor,
    small: Tensor,
    factors: tuple[Tensor, Tensor, Tensor, Tensor],
    heads: int,
    turn_q: tuple[Tensor, Tensor],
    turn_k: tuple[Tensor, Tensor],
    sees: Tensor,
) -> Tensor:
    """softmax(rope(Q) rope(K)^T / sqrt(d)) V A_o, Q = x + x A_q B_q, K = s + s A_k B_k, V alike.

    Args:
        x: `[B, T, D]`.
        inner: x A_q, `[B, T, r]`.
        rows: s, `[B, S, D]`.
        small: s A_k and s A_v, `[B, 2, S, r]`.
        factors: B_q, B_k, B_v `[r, D]` and A_o `[D, r]`.
        heads: H.
        turn_q: cos and sin of the queries' positions, `[B or 1, T, d / 2]` each.
        turn_k: those of the keys, `[B or 1, S, d / 2]`.
        sees: `[B or 1, T, S]` bool.

    Returns:
        `[B, T, r]`, in x's dtype.
    """
    b_q, b_k, b_v, a_o = factors

    def split(wide: Tensor) -> Tensor:
        return wide.unflatten(-1, (heads, -1)).transpose(1, 2)

    c_k, c_v = small.unbind(1)
    q, k = turned(split(x + inner @ b_q), turn_q), turned(split(rows + c_k @ b_k), turn_k)
    weights = attention_weights(q, k, sees, q.shape[-1] ** -0.5)
    return (weights @ split(rows + c_v @ b_v)).transpose(1, 2).flatten(2) @ a_o


def attention_weights(q: Tensor, k: Tensor, sees: Tensor, scale: float) -> Tensor:
    """`[B, H, T, S]`, zero for queries that see nothing; the softmax in fp32 at least."""
    scores = (q @ k.transpose(2, 3) * scale).masked_fill(~sees[:, None], torch.finfo(q.dtype).min)
    wide = torch.promote_types(q.dtype, torch.float32)
    weights = scores.softmax(-1, dtype=wide).to(q.dtype)
    return weights.masked_fill(~sees[:, None], 0.0)


def turned(heads: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rope with paired halves, `[B, H, S, d]`: (a, b) -> (a cos - b sin, b cos + a sin)."""
    cos, sin = (part[:, None].to(heads.dtype) for part in turn)
    a, b = heads.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
