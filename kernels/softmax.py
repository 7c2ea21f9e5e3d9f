"""Key blocks of a query block: which to visit, their scores, and one step of the online softmax.

Scores are kept unscaled. `factor` is the scale times log2(e): exp2 is one GPU instruction, exp two.
"""

import triton
import triton.language as tl

from .tiles import dot


@triton.jit
def load_spans(p_spans: tl.tensor) -> tuple:
    """One row of `KeyRanges.block_spans`: low, full_low, full_high and high."""
    return tl.load(p_spans), tl.load(p_spans + 1), tl.load(p_spans + 2), tl.load(p_spans + 3)


@triton.jit
def partial_block(
    i: tl.tensor, low: tl.tensor, full_low: tl.tensor, full_high: tl.tensor
) -> tl.tensor:
    """Index of the i-th partial block; partial blocks are on both sides of the full ones.

    One loop over both sides compiles the masked body once. The result does not depend on the order
    of the blocks, because the softmax is accumulated online.
    """
    before = full_low - low
    return tl.where(i < before, low + i, full_high + i - before)


@triton.jit
def block_scores(
    b_q: tl.tensor, b_k: tl.tensor, b_first: tl.tensor, b_end: tl.tensor, start: tl.tensor,
    BN: tl.constexpr, MASKED: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """q k^T in fp32, -inf for keys outside of a query's range; the keys begin at `start`."""
    b_s = dot(b_q, tl.trans(b_k))
    if MASKED:
        o_key = start + tl.arange(0, BN)
        m_visible = (o_key[None, :] >= b_first[:, None]) & (o_key[None, :] < b_end[:, None])
        b_s = tl.where(m_visible, b_s, float("-inf"))
    return b_s


@triton.jit
def online_softmax(
    b_s: tl.tensor, b_total: tl.tensor, b_max: tl.tensor, factor: tl.tensor, MASKED: tl.constexpr
) -> tuple:
    """One step of the online softmax.

    Returns:
        The weights relative to the running maximum, the factor for earlier sums, the sum of all
        weights so far, and the new running maximum.
    """
    b_new = tl.maximum(b_max, tl.max(b_s, 1) * factor)
    # If no key was visible so far, the maximum is -inf, and -inf - -inf would be NaN.
    b_shift = tl.where(b_new == float("-inf"), 0.0, b_new) if MASKED else b_new
    b_p = tl.math.exp2(b_s * factor - b_shift[:, None])
    b_shrink = tl.math.exp2(b_max - b_shift)
    return b_p, b_shrink, b_total * b_shrink + tl.sum(b_p, 1), b_new
