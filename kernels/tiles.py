"""Tiles: blocks of matrices whose rows or columns may end inside the block, loaded and stored."""

import torch
import triton
import triton.language as tl
from torch import Tensor

# exp2 is one instruction, exp is two: scores are taken to base 2.
LOG2_E = 1.4426950408889634


@triton.jit
def tile(
    p_base: tl.tensor, start: tl.tensor, stride: tl.tensor, rows: tl.tensor,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, CUT: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Rows `start ..` of a matrix `[rows, WIDTH]` as `[ROWS, PADDED]`, zeros outside.

    Without `CUT` all rows are known to be there, and the loads need no mask over rows.
    """
    o_row, o_column = tl.arange(0, ROWS), tl.arange(0, PADDED)
    # 64 bits once for the block; inside it 32 are enough.
    p_tile = (
        p_base + tl.cast(start, tl.int64) * stride + (o_row[:, None] * stride + o_column[None, :])
    )
    if CUT and WIDTH < PADDED:
        m_tile = (start + o_row < rows)[:, None] & (o_column < WIDTH)[None, :]
        return tl.load(p_tile, mask=m_tile, other=0.0)
    elif CUT:
        return tl.load(p_tile, mask=(start + o_row < rows)[:, None], other=0.0)
    elif WIDTH < PADDED:
        return tl.load(p_tile, mask=(o_column < WIDTH)[None, :], other=0.0)
    else:
        return tl.load(p_tile)


@triton.jit
def put(
    b_tile: tl.tensor, p_base: tl.tensor, start: tl.tensor, stride: tl.tensor, rows: tl.tensor,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr,
) -> None:  # fmt: skip
    """Stores what `tile` loads, in the type of the matrix."""
    o_row, o_column = tl.arange(0, ROWS), tl.arange(0, PADDED)
    p_tile = (
        p_base + tl.cast(start, tl.int64) * stride + (o_row[:, None] * stride + o_column[None, :])
    )
    m_tile = (start + o_row < rows)[:, None] & (o_column < WIDTH)[None, :]
    tl.store(p_tile, rounded(b_tile, p_base.dtype.element_ty), mask=m_tile)


# Triton's interpreter multiplies bf16 numbers as if their bits were whole numbers, and cuts digits
# off where fp32 becomes bf16: twice the error of rounding, always towards zero.
INTERPRETED = tl.constexpr(not isinstance(tile, triton.JITFunction))


@triton.jit
def rounded(b_tile: tl.tensor, dtype: tl.constexpr) -> tl.tensor:
    """The tile in another floating-point type, each number rounded to the nearest, ties to even."""
    if INTERPRETED and dtype == tl.bfloat16 and b_tile.dtype == tl.float32:
        b_bits = b_tile.to(tl.uint32, bitcast=True)
        # Half of the last digit that is kept, or a bit less before a tie with an even digit.
        b_bits = (b_bits + 0x7FFF + ((b_bits >> 16) & 1)) & 0xFFFF0000
        return b_bits.to(tl.float32, bitcast=True).to(dtype)
    else:
        return b_tile.to(dtype)


@triton.jit
def dot(b_a: tl.tensor, b_b: tl.tensor, b_sum: tl.tensor | None = None) -> tl.tensor:
    """`b_sum + b_a b_b` in fp32; fp32 factors keep all their digits."""
    if INTERPRETED:
        return tl.dot(b_a.to(tl.float32), b_b.to(tl.float32), b_sum)
    else:
        return tl.dot(b_a, b_b, b_sum, input_precision="ieee")


def padded_width(width: int) -> int:
    """The width of a tile that holds `width` columns: a power of two, of at least 16."""
    return max(16, triton.next_power_of_2(width))


def padded(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """`[..., C]` -> `[..., padded_width(C)]` in `dtype`, zeros in the new columns."""
    extra = padded_width(matrix.shape[-1]) - matrix.shape[-1]
    return torch.nn.functional.pad(matrix.to(dtype), (0, extra)).contiguous()


def dense(tensor: Tensor) -> Tensor:
    """The tensor with its last dimension's numbers side by side."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
