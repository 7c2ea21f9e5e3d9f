"""Pieces of the keys while decoding: one query a head alone would leave most of a GPU idle."""

import triton
import triton.language as tl

# Enough programs to fill a large GPU about twice, as each one waits for memory.
TARGET_PROGRAMS = 528
# The pieces of a head are joined in one tile.
MOST_SPLITS = 64


def count_splits(keys: int, block: int, programs: int) -> int:
    """Number of pieces of the keys. Piece p of n has the blocks p, p + n, p + 2 n and so on.

    So all pieces have work where only the first keys of a static cache are filled.

    Args:
        keys: S.
        block: keys that a program loads at once.
        programs: how many programs there are for each piece.
    """
    blocks = triton.cdiv(keys, block)
    return max(1, min(blocks, MOST_SPLITS, TARGET_PROGRAMS // programs))


@triton.jit
def load_splits(
    p_stats: tl.tensor, splits: tl.tensor,
    HEADS: tl.constexpr, HEADS_B: tl.constexpr, SPLITS: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """The weight of each piece in the output of its head, `[HEADS_B, SPLITS]`.

    `p_stats`: of each piece the largest score to base 2 and the sum of weights relative to it.
    A head without a visible key has weights of zero or sums of zero.
    """
    o_head, o_split = tl.arange(0, HEADS_B), tl.arange(0, SPLITS)
    m_piece = (o_head < HEADS)[:, None] & (o_split < splits)[None, :]
    p_stats += (o_head[:, None] * splits + o_split[None, :]) * 2
    b_max = tl.load(p_stats, mask=m_piece, other=float("-inf"))
    b_total = tl.load(p_stats + 1, mask=m_piece, other=0.0)
    b_top = tl.max(b_max, 1)
    # -inf - -inf would be NaN.
    b_weight = tl.math.exp2(b_max - tl.where(b_top == float("-inf"), 0.0, b_top)[:, None])
    b_sum = tl.sum(b_weight * b_total, 1)
    return b_weight / tl.where(b_sum == 0.0, 1.0, b_sum)[:, None]
