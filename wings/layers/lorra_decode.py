"""What learners add for one token a row: decoding, in as few small steps as it takes.

Here an operation costs about as much to start as to run, so learners are plain products, no value
is made whole, and no key unless the memory kept it.
"""

import torch
from torch import Tensor

from wings.attention.rotary import Rotation
from wings.attention.source_tokens import Kept, Source

from .lorra import Factors


def share_of_one_token(
    x: Tensor,
    factors: list[Factors],
    sources: list[Source],
    kept: list[Kept],
    weights: list[Tensor],
    rotation: Rotation,
) -> Tensor:
    """Sum over learners of weight * O for T = 1 (Wings, section 3.2).

    Args:
        x: the block's normed input, `[B, 1, D]`.
        factors: of the learners with a source, at least one.
        sources: the rows each may look at, `[B, S, D]`.
        kept: what the block has of those rows.
        weights: the router's, `[B, 1, 1]` for each learner.
        rotation: of the token's position.

    Returns:
        `[B, 1, D]`; exact zeros from a learner that sees no row.
    """
    row = x[:, 0]
    shares = []
    for own, source, of_rows, weight in zip(factors, sources, kept, weights, strict=True):
        q = torch.addmm(row, row @ own.a_q, own.b_q)
        out = attention_of_one_token(q, own, source, of_rows, rotation) * weight[:, 0]
        shares.append(out @ own.b_o)
    share = shares[0]
    for more in shares[1:]:
        share = share + more
    return share[:, None]


def attention_of_one_token(
    q: Tensor, factors: Factors, source: Source, kept: Kept, rotation: Rotation
) -> Tensor:
    """softmax(rope(Q) rope(K)^T / sqrt(d)) V A_o: q `[B, D]` -> `[B, r]`."""
    batch, width = len(q), rotation.width
    g = torch.bmm(q.view(batch, -1, width), rotation.matrices[1])
    heads = g.shape[1]
    if kept.keys is not None:
        scores = torch.bmm(g.view(batch * heads, 1, width), kept.keys.flatten(0, 1))
        scores = scores.view(batch, heads, -1)
    else:
        scores = torch.bmm(g.view(batch * heads, 1, width), source.turned.flatten(0, 1))
        scores = scores.view(batch, heads, -1) + low_rank_scores(
            g, kept.small[:, 0], factors.b_k, source.rotation
        )
    seen = source.visibility.weigh(scores)

    # Values are weighed first and expanded afterwards.
    out = torch.bmm(seen.view(batch * heads, 1, -1), source.heads)
    inner = torch.bmm(seen, kept.small[:, 1])
    by_head = factors.b_v.view(-1, heads, width).transpose(0, 1)
    out = out.view(batch, heads, width).transpose(0, 1)
    out = torch.baddbmm(out, inner.transpose(0, 1), by_head)
    return out.transpose(0, 1).reshape(batch, -1) @ factors.a_o


def low_rank_scores(g: Tensor, key_part: Tensor, b_k: Tensor, rotation: Rotation) -> Tensor:
    """g rope(c B_k)^T for one query, `[B, H, S]`, without the keys.

    With c_j a row of `key_part` and (1, 2) the halves that rope pairs, a head's score is the sum
    over pairs of c_j (B^1 g^1 + B^2 g^2) cos_j + c_j (B^1 g^2 - B^2 g^1) sin_j: the factor takes
    in the query, and each key only brings its cos and sin.

    Args:
        g: rope(Q), `[B, H, d]`, scaled.
        key_part: s A_k, `[B, S, r]`.
        b_k: `[r, D]`.
        rotation: of the S positions.
    """
    heads = g.shape[1]
    first, second = b_k.unflatten(-1, (heads, 2, -1)).unbind(2)
    g_first, g_second = g[:, None].unflatten(-1, (2, -1)).unbind(3)
    folded = torch.cat(
        [first * g_first + second * g_second, first * g_second - second * g_first], dim=-1
    )
    spread = (key_part @ folded.flatten(2)).unflatten(-1, (heads, -1))
    return (spread @ rotation.table[..., None])[..., 0].transpose(1, 2)
