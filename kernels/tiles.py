"""Tiles: blocks of a matrix in registers, padded to the sizes that Triton's dot needs."""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Softmax is computed to base 2: exp2(x * LOG2_E) = exp(x).
LOG2_E = 1.4426950408889634


@triton.jit
def load_tile(
    p_base: tl.tensor, start: tl.tensor, stride: tl.tensor, rows: tl.tensor,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, MASK_ROWS: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Loads rows from `start` on of a matrix `[rows, WIDTH]` as `[ROWS, PADDED]`; zeros outside.

    Without `MASK_ROWS` all rows must exist. Full blocks then load without a mask over rows.
    """
    o_row, o_column = tl.arange(0, ROWS), tl.arange(0, PADDED)
    # The start of the block needs 64 bits, as tensors may exceed 2^31 numbers. Offsets inside of it
    # fit 32 bits, which takes fewer registers.
    p_tile = (
        p_base + tl.cast(start, tl.int64) * stride + (o_row[:, None] * stride + o_column[None, :])
    )
    if MASK_ROWS and WIDTH < PADDED:
        m_tile = (start + o_row < rows)[:, None] & (o_column < WIDTH)[None, :]
        return tl.load(p_tile, mask=m_tile, other=0.0)
    elif MASK_ROWS:
        return tl.load(p_tile, mask=(start + o_row < rows)[:, None], other=0.0)
    elif WIDTH < PADDED:
        return tl.load(p_tile, mask=(o_column < WIDTH)[None, :], other=0.0)
    else:
        return tl.load(p_tile)


@triton.jit
def store_tile(
    b_tile: tl.tensor, p_base: tl.tensor, start: tl.tensor, stride: tl.tensor, rows: tl.tensor,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr,
) -> None:  # fmt: skip
    """Stores a tile as `load_tile` loads it, rounded to the dtype of the matrix."""
    o_row, o_column = tl.arange(0, ROWS), tl.arange(0, PADDED)
    p_tile = (
        p_base + tl.cast(start, tl.int64) * stride + (o_row[:, None] * stride + o_column[None, :])
    )
    m_tile = (start + o_row < rows)[:, None] & (o_column < WIDTH)[None, :]
    tl.store(p_tile, round_to(b_tile, p_base.dtype.element_ty), mask=m_tile)


# Triton's interpreter does two things wrong in bf16: it multiplies the bits as integers, and it
# truncates fp32 to bf16, which has twice the error of rounding and always towards zero.
INTERPRETED = tl.constexpr(not isinstance(load_tile, triton.JITFunction))


@triton.jit
def round_to(b_tile: tl.tensor, dtype: tl.constexpr) -> tl.tensor:
    """Casts a tile to another float dtype, rounding to nearest, ties to even."""
    if INTERPRETED and dtype == tl.bfloat16 and b_tile.dtype == tl.float32:
        b_bits = b_tile.to(tl.uint32, bitcast=True)
        # Adds half of the last kept digit, or a bit less if that digit is even: ties go to even.
        b_bits = (b_bits + 0x7FFF + ((b_bits >> 16) & 1)) & 0xFFFF0000
        return b_bits.to(tl.float32, bitcast=True).to(dtype)
    else:
        return b_tile.to(dtype)


@triton.jit
def dot(b_a: tl.tensor, b_b: tl.tensor, b_sum: tl.tensor | None = None) -> tl.tensor:
    """`b_sum + b_a b_b`, accumulated in fp32. fp32 inputs are multiplied exactly, not as TF32."""
    if INTERPRETED:
        return tl.dot(b_a.to(tl.float32), b_b.to(tl.float32), b_sum)
    else:
        return tl.dot(b_a, b_b, b_sum, input_precision="ieee")


def padded_width(width: int) -> int:
    """Width of a tile for `width` columns: a power of two, at least 16 as `tl.dot` needs."""
    return max(16, triton.next_power_of_2(width))


def pad_columns(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """`[..., C]` -> `[..., padded_width(C)]` in `dtype`, with zeros in the new columns."""
    extra = padded_width(matrix.shape[-1]) - matrix.shape[-1]
    return torch.nn.functional.pad(matrix.to(dtype), (0, extra)).contiguous()


def with_dense_rows(tensor: Tensor) -> Tensor:
    """The tensor, copied if the stride of its last dimension is not 1."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


# Bytes that addresses and strides of a descriptor are multiples of.
DESCRIPTOR_ALIGNMENT = 16


def is_aligned(tensor: Tensor) -> bool:
    """Returns whether a descriptor can load rows of the last dimension of a tensor."""
    strides = (stride * tensor.element_size() for stride in tensor.stride()[:-1])
    places = (tensor.data_ptr(), *strides)
    return tensor.stride(-1) == 1 and not any(place % DESCRIPTOR_ALIGNMENT for place in places)


def allocate_descriptors(device: torch.device) -> None:
    """Lets kernels that are launched next make descriptors on a device."""
    triton.set_allocator(
        lambda size, alignment, stream: torch.empty(size, dtype=torch.int8, device=device)
    )
