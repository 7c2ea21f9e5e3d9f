"""Rotated low-rank sums, `rope(x + t b)`: computed in registers, and their gradient rotated back.

RoPE rotates pairs of columns, one from each half of a head. So a tile holds a head as two halves of
`HB` columns, each padded from `HALF`. Any even head width fits, and both halves share one cos and
sin.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wings.kernels.tiles import dot, load_tile, padded_width, round_to, store_tile
from wings.kernels.tuning import blocks_for


@triton.jit
def load_head(
    p_base: tl.tensor, start: tl.tensor, stride: tl.tensor, rows: tl.tensor,
    ROWS: tl.constexpr, HALF: tl.constexpr, HB: tl.constexpr, MASK_ROWS: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Loads rows from `start` on of one head as `[ROWS, 2 HB]`; zeros outside. See `load_tile`."""
    if HALF == HB:
        return load_tile(p_base, start, stride, rows, ROWS, 2 * HB, 2 * HB, MASK_ROWS)
    else:
        o_row, o_column = tl.arange(0, ROWS), tl.arange(0, 2 * HB)
        o_tile = o_row[:, None] * stride + (o_column // HB * HALF + o_column % HB)[None, :]
        m_tile = (o_column % HB < HALF)[None, :]
        if MASK_ROWS:
            m_tile = m_tile & (start + o_row < rows)[:, None]
        return tl.load(p_base + tl.cast(start, tl.int64) * stride + o_tile, mask=m_tile, other=0.0)


@triton.jit
def store_head(
    b_tile: tl.tensor, p_base: tl.tensor, start: tl.tensor, stride: tl.tensor, rows: tl.tensor,
    ROWS: tl.constexpr, HALF: tl.constexpr, HB: tl.constexpr,
) -> None:  # fmt: skip
    """Stores a tile as `load_head` loads it, rounded to the dtype of the matrix."""
    o_row, o_column = tl.arange(0, ROWS), tl.arange(0, 2 * HB)
    o_tile = o_row[:, None] * stride + (o_column // HB * HALF + o_column % HB)[None, :]
    m_tile = (start + o_row < rows)[:, None] & (o_column % HB < HALF)[None, :]
    p_tile = p_base + tl.cast(start, tl.int64) * stride + o_tile
    tl.store(p_tile, round_to(b_tile, p_base.dtype.element_ty), mask=m_tile)


@triton.jit
def rope_tile(
    p_x: tl.tensor, b_t: tl.tensor, p_b: tl.tensor, p_cos: tl.tensor, p_sin: tl.tensor,
    start: tl.tensor, stride: tl.tensor, rows: tl.tensor, width: tl.tensor,
    ROWS: tl.constexpr, HALF: tl.constexpr, HB: tl.constexpr,
    RANK: tl.constexpr, RB: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """`rope(x + t b)` of one head, `[ROWS, 2 HB]` in x's dtype; zeros past the last row.

    `p_x` and `p_b` point to the head's first column; `b_t` is the tile's part of t, `[ROWS, RB]`.
    """
    o_rank, o_half = tl.arange(0, RB), tl.arange(0, HB)
    p_half = p_b + (o_rank[:, None] * width + o_half[None, :])
    m_half = (o_rank < RANK)[:, None] & (o_half < HALF)[None, :]
    # One half after the other, so that the two halves of b can reuse the same shared memory.
    b_x1 = load_tile(p_x, start, stride, rows, ROWS, HALF, HB, True)
    b_y1 = dot(b_t, tl.load(p_half, mask=m_half, other=0.0), b_x1.to(tl.float32))
    b_x2 = load_tile(p_x + HALF, start, stride, rows, ROWS, HALF, HB, True)
    b_y2 = dot(b_t, tl.load(p_half + HALF, mask=m_half, other=0.0), b_x2.to(tl.float32))
    # The sum stays in fp32 until it is rotated, so the result is rounded once.
    b_cos = load_tile(p_cos, start, HALF, rows, ROWS, HALF, HB, True)
    b_sin = load_tile(p_sin, start, HALF, rows, ROWS, HALF, HB, True)
    b_z1 = round_to(b_y1 * b_cos - b_y2 * b_sin, b_x1.dtype)
    b_z2 = round_to(b_y2 * b_cos + b_y1 * b_sin, b_x1.dtype)
    # Puts the halves next to each other: `join` adds a last axis of 2, `permute` moves it forward.
    return tl.reshape(tl.permute(tl.join(b_z1, b_z2), (0, 2, 1)), (ROWS, 2 * HB))


@triton.jit
def store_rope_gradient(
    b_z: tl.tensor, p_out: tl.tensor, p_cos: tl.tensor, p_sin: tl.tensor,
    start: tl.tensor, stride: tl.tensor, rows: tl.tensor,
    ROWS: tl.constexpr, HALF: tl.constexpr, HB: tl.constexpr,
) -> None:  # fmt: skip
    """Stores the gradient of `x + t b` of one head, given that of the rotated tile in fp32."""
    # The inverse of a rotation is its transpose: sin changes its sign.
    b_cos = load_tile(p_cos, start, HALF, rows, ROWS, HALF, HB, True)
    b_sin = load_tile(p_sin, start, HALF, rows, ROWS, HALF, HB, True)
    b_z1, b_z2 = tl.split(tl.permute(tl.reshape(b_z, (ROWS, 2, HB)), (0, 2, 1)))
    store_tile(b_z1 * b_cos + b_z2 * b_sin, p_out, start, stride, rows, ROWS, HALF, HB)
    store_tile(b_z2 * b_cos - b_z1 * b_sin, p_out + HALF, start, stride, rows, ROWS, HALF, HB)


# `rows` changes from batch to batch; specialised on, it would compile the kernel several times.
@triton.jit(do_not_specialize=["rows"])
def rope_kernel(
    p_x: tl.tensor, p_t: tl.tensor, p_b: tl.tensor, p_cos: tl.tensor, p_sin: tl.tensor,
    p_out: tl.tensor, stride_xb: tl.tensor, stride_x: tl.tensor, stride_tb: tl.tensor,
    stride_t: tl.tensor, stride_rope: tl.tensor, rows: tl.tensor, heads: tl.tensor,
    ROWS: tl.constexpr, HALF: tl.constexpr, HB: tl.constexpr,
    RANK: tl.constexpr, RB: tl.constexpr,
) -> None:  # fmt: skip
    """One program computes a block of rows of one head."""
    start, head = tl.program_id(0) * ROWS, tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    column, width = head * 2 * HALF, heads * 2 * HALF
    b_t = load_tile(p_t + batch * stride_tb, start, stride_t, rows, ROWS, RANK, RB, True)
    b_z = rope_tile(
        p_x + batch * stride_xb + column, b_t, p_b + column,
        p_cos + batch * stride_rope, p_sin + batch * stride_rope,
        start, stride_x, rows, width, ROWS, HALF, HB, RANK, RB,
    )  # fmt: skip
    store_head(b_z, p_out + batch * rows * width + column, start, width, rows, ROWS, HALF, HB)


def rope_rows(x: Tensor, t: Tensor, b: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
    """`rope(x + t b)` of every head.

    Args:
        x: `[B, T, D]`, last stride 1.
        t: `[B, T, r]`, last stride 1.
        b: `[r, D]`, contiguous.
        cos, sin: `[B or 1, T, D / heads / 2]` fp32, contiguous.
        heads: number of heads.

    Returns:
        `[B, T, D]` in x's dtype.
    """
    batch, rows, width = x.shape
    out = torch.empty(batch, rows, width, dtype=x.dtype, device=x.device)
    half, rank = width // heads // 2, t.shape[-1]
    blocks = blocks_for("rope_rows", max(2 * half, rank), x.dtype, x.device)
    with torch.cuda.device_of(x):
        rope_kernel[triton.cdiv(rows, blocks.queries), heads, batch](
            x, t, b, cos, sin, out,
            x.stride(0), x.stride(1), t.stride(0), t.stride(1), batch_stride(cos), rows, heads,
            ROWS=blocks.queries, HALF=half, HB=padded_width(half), RANK=rank, RB=padded_width(rank),
            num_warps=blocks.warps, num_stages=blocks.stages,
        )  # fmt: skip
    return out


def batch_stride(table: Tensor) -> int:
    """Batch stride of a `[B or 1, ...]` table: 0 if all rows of the batch share it."""
    return table.stride(0) if table.shape[0] > 1 else 0
