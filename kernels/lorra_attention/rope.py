"""Turned rows: `rope(x + t b)`, a low-rank sum that is made, turned and turned back in registers.

Tiles hold a head as two halves of `HB` columns, each padded from `HALF`: rotary positions pair the
halves, so that they are loaded, turned and stored as two tiles, and any even head width fits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wings.kernels.tiles import dot, padded_width, put, rounded, tile
from wings.kernels.tuning import blocks_for


@triton.jit
def head_tile(
    p_base: tl.tensor, start: tl.tensor, stride: tl.tensor, rows: tl.tensor,
    ROWS: tl.constexpr, HALF: tl.constexpr, HB: tl.constexpr, CUT: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Rows `start ..` of one head as `[ROWS, 2 HB]`, zeros outside; `CUT` as in `tile`."""
    if HALF == HB:
        return tile(p_base, start, stride, rows, ROWS, 2 * HB, 2 * HB, CUT)
    else:
        o_row, o_column = tl.arange(0, ROWS), tl.arange(0, 2 * HB)
        o_tile = o_row[:, None] * stride + (o_column // HB * HALF + o_column % HB)[None, :]
        m_tile = (o_column % HB < HALF)[None, :]
        if CUT:
            m_tile = m_tile & (start + o_row < rows)[:, None]
        return tl.load(p_base + tl.cast(start, tl.int64) * stride + o_tile, mask=m_tile, other=0.0)


@triton.jit
def put_head(
    b_tile: tl.tensor, p_base: tl.tensor, start: tl.tensor, stride: tl.tensor, rows: tl.tensor,
    ROWS: tl.constexpr, HALF: tl.constexpr, HB: tl.constexpr,
) -> None:  # fmt: skip
    """Stores what `head_tile` loads, in the type of the matrix."""
    o_row, o_column = tl.arange(0, ROWS), tl.arange(0, 2 * HB)
    o_tile = o_row[:, None] * stride + (o_column // HB * HALF + o_column % HB)[None, :]
    m_tile = (start + o_row < rows)[:, None] & (o_column % HB < HALF)[None, :]
    p_tile = p_base + tl.cast(start, tl.int64) * stride + o_tile
    tl.store(p_tile, rounded(b_tile, p_base.dtype.element_ty), mask=m_tile)


@triton.jit
def turned_tile(
    p_x: tl.tensor, b_t: tl.tensor, p_b: tl.tensor, p_cos: tl.tensor, p_sin: tl.tensor,
    start: tl.tensor, stride: tl.tensor, rows: tl.tensor, width: tl.tensor,
    ROWS: tl.constexpr, HALF: tl.constexpr, HB: tl.constexpr,
    RANK: tl.constexpr, RB: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """`rope(x + t b)` of one head, `[ROWS, 2 HB]` in x's dtype; zeros where there is no row.

    `p_x`, `p_b` stand at the head's first column; `b_t` are the tile's rows of t, `[ROWS, RB]`.
    """
    o_rank, o_half = tl.arange(0, RB), tl.arange(0, HB)
    p_half = p_b + (o_rank[:, None] * width + o_half[None, :])
    m_half = (o_rank < RANK)[:, None] & (o_half < HALF)[None, :]
    # One half after the other, so that both halves of b take the same shared memory.
    b_x1 = tile(p_x, start, stride, rows, ROWS, HALF, HB, True)
    b_y1 = dot(b_t, tl.load(p_half, mask=m_half, other=0.0), b_x1.to(tl.float32))
    b_x2 = tile(p_x + HALF, start, stride, rows, ROWS, HALF, HB, True)
    b_y2 = dot(b_t, tl.load(p_half + HALF, mask=m_half, other=0.0), b_x2.to(tl.float32))
    b_cos = tile(p_cos, start, HALF, rows, ROWS, HALF, HB, True)
    b_sin = tile(p_sin, start, HALF, rows, ROWS, HALF, HB, True)
    b_z1 = rounded(b_y1 * b_cos - b_y2 * b_sin, b_x1.dtype)
    b_z2 = rounded(b_y2 * b_cos + b_y1 * b_sin, b_x1.dtype)
    return tl.reshape(tl.permute(tl.join(b_z1, b_z2), (0, 2, 1)), (ROWS, 2 * HB))


@triton.jit
def put_turned_back(
    b_z: tl.tensor, p_out: tl.tensor, p_cos: tl.tensor, p_sin: tl.tensor,
    start: tl.tensor, stride: tl.tensor, rows: tl.tensor,
    ROWS: tl.constexpr, HALF: tl.constexpr, HB: tl.constexpr,
) -> None:  # fmt: skip
    """Stores the gradient of `x + t b` of one head, given that of the turned tile in fp32."""
    b_cos = tile(p_cos, start, HALF, rows, ROWS, HALF, HB, True)
    b_sin = tile(p_sin, start, HALF, rows, ROWS, HALF, HB, True)
    b_z1, b_z2 = tl.split(tl.permute(tl.reshape(b_z, (ROWS, 2, HB)), (0, 2, 1)))
    put(b_z1 * b_cos + b_z2 * b_sin, p_out, start, stride, rows, ROWS, HALF, HB)
    put(b_z2 * b_cos - b_z1 * b_sin, p_out + HALF, start, stride, rows, ROWS, HALF, HB)


@triton.jit(do_not_specialize=["rows"])
def turned_kernel(
    p_x: tl.tensor, p_t: tl.tensor, p_b: tl.tensor, p_cos: tl.tensor, p_sin: tl.tensor,
    p_out: tl.tensor, stride_xb: tl.tensor, stride_x: tl.tensor, stride_tb: tl.tensor,
    stride_t: tl.tensor, stride_turn: tl.tensor, rows: tl.tensor, heads: tl.tensor,
    ROWS: tl.constexpr, HALF: tl.constexpr, HB: tl.constexpr,
    RANK: tl.constexpr, RB: tl.constexpr,
) -> None:  # fmt: skip
    """One program turns a block of rows of one head."""
    start, head = tl.program_id(0) * ROWS, tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    column, width = head * 2 * HALF, heads * 2 * HALF
    b_t = tile(p_t + batch * stride_tb, start, stride_t, rows, ROWS, RANK, RB, True)
    b_z = turned_tile(
        p_x + batch * stride_xb + column, b_t, p_b + column,
        p_cos + batch * stride_turn, p_sin + batch * stride_turn,
        start, stride_x, rows, width, ROWS, HALF, HB, RANK, RB,
    )  # fmt: skip
    put_head(b_z, p_out + batch * rows * width + column, start, width, rows, ROWS, HALF, HB)


def turned_rows(x: Tensor, t: Tensor, b: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
    """`rope(x + t b)`, head by head.

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
    blocks = blocks_for("turned_rows", max(2 * half, rank), x.dtype, x.device)
    with torch.cuda.device_of(x):
        turned_kernel[triton.cdiv(rows, blocks.queries), heads, batch](
            x, t, b, cos, sin, out,
            x.stride(0), x.stride(1), t.stride(0), t.stride(1), row_stride(cos), rows, heads,
            ROWS=blocks.queries, HALF=half, HB=padded_width(half), RANK=rank, RB=padded_width(rank),
            num_warps=blocks.warps, num_stages=blocks.stages,
        )  # fmt: skip
    return out


def row_stride(table: Tensor) -> int:
    """Step from a row of a `[B or 1, ...]` table to the next: none where all rows share it."""
    return table.stride(0) if table.shape[0] > 1 else 0
