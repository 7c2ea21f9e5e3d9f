"""Scores of a block of queries and a block of keys, and the softmax that goes on block by block."""

import triton
import triton.language as tl

from .tiles import dot


@triton.jit
def scores(
    b_q: tl.tensor, b_k: tl.tensor, b_first: tl.tensor, b_end: tl.tensor, start: tl.tensor,
    BN: tl.constexpr, MASKED: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """q k^T, -inf where the run of a query does not hold the key; keys begin at `start`."""
    b_s = dot(b_q, tl.trans(b_k))
    if MASKED:
        o_key = start + tl.arange(0, BN)
        m_seen = (o_key[None, :] >= b_first[:, None]) & (o_key[None, :] < b_end[:, None])
        b_s = tl.where(m_seen, b_s, float("-inf"))
    return b_s


@triton.jit
def weighed(
    b_s: tl.tensor, b_total: tl.tensor, b_max: tl.tensor, factor: tl.tensor, MASKED: tl.constexpr
) -> tuple:
    """The block's weights against the running maximum, and what earlier sums shrink by.

    Returns weights, shrink, the total of all weights so far, and the new maximum.
    """
    b_new = tl.maximum(b_max, tl.max(b_s, 1) * factor)
    # A query may see nothing of this block nor of any before: -inf - -inf would be NaN.
    b_shift = tl.where(b_new == float("-inf"), 0.0, b_new) if MASKED else b_new
    b_p = tl.math.exp2(b_s * factor - b_shift[:, None])
    b_shrink = tl.math.exp2(b_max - b_shift)
    return b_p, b_shrink, b_total * b_shrink + tl.sum(b_p, 1), b_new
