"""The operations by torch's flex_attention, compiled: the nearest thing that torch has ready made.

It takes a learner's visibility as a `mask_mod`; the router's sums ride along as further columns of
the values, where it allows values of another width.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from .textbook import turned


def compiled() -> Callable:
    """Compiled afresh for one shape.

    A length that varies would make slower code, and after some recompilations of one function torch
    would run it uncompiled without a word.
    """
    torch.compiler.reset()
    return torch.compile(flex_attention, dynamic=False)


def blocks(position: Tensor, visible_from: Tensor) -> BlockMask:
    """Keys whose `visible_from [B, S]` is at most a query's `position [B, T]`."""
    position, visible_from = position.to(torch.int32).clone(), visible_from.to(torch.int32).clone()

    def sees(row: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return visible_from[row, key] <= position[row, query]

    batch, length = position.shape
    return create_block_mask(
        sees, batch, None, length, visible_from.shape[1], device=position.device
    )


def routed_attention(
    attention: Callable,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    columns: Tensor,
    mask: BlockMask,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """As `textbook.routed_attention`, with a block mask and what `compiled` gave."""
    width = v.shape[-1]
    riding = columns[:, None].expand(-1, v.shape[1], -1, -1).to(v.dtype)
    grouped = q.shape[1] != k.shape[1]
    out = attention(
        q, k, torch.cat([v, riding], dim=-1), block_mask=mask, scale=scale, enable_gqa=grouped
    )
    return out[..., :width].transpose(1, 2), out[..., width:].mean(1).to(columns.dtype)


def learner_attention(
    attention: Callable,
    x: Tensor,
    inner: Tensor,
    rows: Tensor,
    small: Tensor,
    factors: tuple[Tensor, Tensor, Tensor, Tensor],
    heads: int,
    turn_q: tuple[Tensor, Tensor],
    turn_k: tuple[Tensor, Tensor],
    mask: BlockMask,
) -> Tensor:
    """As `textbook.learner_attention`, with a block mask and what `compiled` gave."""
    b_q, b_k, b_v, a_o = factors

    def split(wide: Tensor) -> Tensor:
        return wide.unflatten(-1, (heads, -1)).transpose(1, 2)

    c_k, c_v = small.unbind(1)
    q, k = turned(split(x + inner @ b_q), turn_q), turned(split(rows + c_k @ b_k), turn_k)
    out = attention(q, k, split(rows + c_v @ b_v), block_mask=mask)
    return out.transpose(1, 2).flatten(2) @ a_o
