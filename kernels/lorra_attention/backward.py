"""Backward of LoRRA attention: one kernel over blocks of queries, one over blocks of keys.

With the weights P of a head, `dP = dout U^T` (heads share dout), `delta_i = sum_j P_ij dP_ij`::

    dq_i = scale sum_j P_ij (dP_ij - delta_i) k_j     dk_j = scale sum_i P_ij (dP_ij - delta_i) q_i
    dU_j = sum_i P_ij dout_i

As in FlashAttention, delta is the product of a head's output and dout: the forward keeps the output
of each head, r numbers in fp32. Half precision would cost digits where one key takes most of the
weight, as dP and delta then nearly cancel. The kernel over queries stores what the kernel over keys
needs of each query: its rotated vector, lse, delta and key range.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from wings.kernels.row_facts import delta_of, load_facts, lse_of, sees, store_facts
from wings.kernels.softmax import block_scores, load_spans, partial_block
from wings.kernels.tiles import LOG2_E, dot, load_tile, padded_width, round_to, store_tile
from wings.kernels.tuning import blocks_for, for_few_keys

from .rope import batch_stride, load_head, rope_rows, rope_tile, store_head, store_rope_gradient
from .values import folded_gradients, folded_values


@dataclass
class LorraInputs:
    """Arguments of `lorra_attention`, with cos and sin apart; `ranges` are those of `visits`."""

    heads: int
    ranges: list[Tensor]
    x: Tensor
    t: Tensor
    source: Tensor
    c_k: Tensor
    c_v: Tensor
    b_q: Tensor
    b_k: Tensor
    b_v: Tensor
    a_o: Tensor
    cos_q: Tensor
    sin_q: Tensor
    cos_k: Tensor
    sin_k: Tensor


@triton.jit
def recompute_weights(
    b_q: tl.tensor, b_dout: tl.tensor, b_lse: tl.tensor, b_first: tl.tensor, b_end: tl.tensor,
    start: tl.tensor, factor: tl.tensor,
    p_k: tl.tensor, p_u: tl.tensor, width: tl.tensor, S: tl.tensor,
    HALF: tl.constexpr, HB: tl.constexpr, RANK: tl.constexpr, RB: tl.constexpr, BN: tl.constexpr,
    MASKED: tl.constexpr,
) -> tuple:  # fmt: skip
    """One block of keys, and the weights P and dP of a block of queries for them."""
    b_k = load_head(p_k, start, width, S, BN, HALF, HB, MASKED)
    b_s = block_scores(b_q, b_k, b_first, b_end, start, BN, MASKED)
    b_p = tl.math.exp2(b_s * factor - b_lse[:, None])
    b_u = load_tile(p_u, start, RANK, S, BN, RANK, RB, MASKED)
    return b_k, b_p, dot(b_dout, tl.trans(b_u))


@triton.jit(do_not_specialize=["T", "S"])
def dq_kernel(
    p_x: tl.tensor, p_t: tl.tensor, p_b: tl.tensor, p_k: tl.tensor, p_u: tl.tensor,
    p_cos: tl.tensor, p_sin: tl.tensor, p_first: tl.tensor, p_end: tl.tensor, p_spans: tl.tensor,
    p_lse: tl.tensor, p_heads: tl.tensor, p_dout: tl.tensor, p_dx: tl.tensor, p_q: tl.tensor,
    p_facts: tl.tensor,
    stride_xb: tl.tensor, stride_x: tl.tensor, stride_tb: tl.tensor, stride_t: tl.tensor,
    stride_rope: tl.tensor, stride_range: tl.tensor, stride_spans: tl.tensor,
    T: tl.tensor, S: tl.tensor, heads: tl.tensor, scale: tl.tensor, factor: tl.tensor,
    HALF: tl.constexpr, HB: tl.constexpr, RANK: tl.constexpr, RB: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
) -> None:  # fmt: skip
    """One program computes dx, rotated queries and delta of a block of queries of one head."""
    # Under causal ranges the last queries see the most keys. The longest programs start first.
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    start, head = block * BM, tl.program_id(1)
    batch, batches = tl.program_id(2).to(tl.int64), tl.num_programs(2).to(tl.int64)
    width, column = heads * 2 * HALF, head * 2 * HALF
    o_query = start + tl.arange(0, BM)
    m_query = o_query < T
    p_cos += batch * stride_rope
    p_sin += batch * stride_rope
    b_t = load_tile(p_t + batch * stride_tb, start, stride_t, T, BM, RANK, RB, True)
    b_q = rope_tile(
        p_x + batch * stride_xb + column, b_t, p_b + column, p_cos, p_sin,
        start, stride_x, T, width, BM, HALF, HB, RANK, RB,
    )  # fmt: skip
    store_head(b_q, p_q + batch * T * width + column, start, width, T, BM, HALF, HB)
    b_dout = load_tile(p_dout + batch * T * RANK, start, RANK, T, BM, RANK, RB, True)
    p_heads += (batch * heads + head) * T * RANK
    b_own = load_tile(p_heads, start, RANK, T, BM, RANK, RB, True)
    b_delta = tl.sum(b_own * b_dout.to(tl.float32), 1)
    # Queries past the last one get an empty range. Nothing is stored for them.
    b_first = tl.load(p_first + batch * stride_range + o_query, mask=m_query, other=0)
    b_end = tl.load(p_end + batch * stride_range + o_query, mask=m_query, other=0)
    o_head = (batch * heads + head) * T + o_query
    b_lse = tl.load(p_lse + o_head, mask=m_query, other=float("inf"))
    p_spans += batch * stride_spans + block * 4
    low, full_low, full_high, high = load_spans(p_spans)
    p_k += batch * S * width + column
    p_u += (head * batches + batch) * S * RANK

    b_dq = tl.zeros([BM, 2 * HB], tl.float32)
    for i in range(0, full_low - low + high - full_high):
        at = partial_block(i, low, full_low, full_high) * BN
        b_k, b_p, b_dp = recompute_weights(
            b_q, b_dout, b_lse, b_first, b_end, at, factor, p_k, p_u, width, S,
            HALF, HB, RANK, RB, BN, True,
        )  # fmt: skip
        b_dq = dot(round_to(b_p * (b_dp - b_delta[:, None]), b_k.dtype), b_k, b_dq)
    for i in range(full_low, full_high):
        b_k, b_p, b_dp = recompute_weights(
            b_q, b_dout, b_lse, b_first, b_end, i * BN, factor, p_k, p_u, width, S,
            HALF, HB, RANK, RB, BN, False,
        )  # fmt: skip
        b_dq = dot(round_to(b_p * (b_dp - b_delta[:, None]), b_k.dtype), b_k, b_dq)
    p_dx += batch * T * width + column
    store_rope_gradient(scale * b_dq, p_dx, p_cos, p_sin, start, width, T, BM, HALF, HB)
    store_facts(p_facts + o_head * 4, b_lse, b_delta, b_first, b_end, m_query)


@triton.jit
def accumulate_dkv(
    b_dk: tl.tensor, b_du: tl.tensor, b_k: tl.tensor, b_u: tl.tensor,
    start_key: tl.tensor, start: tl.tensor, factor: tl.tensor,
    p_q: tl.tensor, p_dout: tl.tensor, p_facts: tl.tensor, width: tl.tensor, T: tl.tensor,
    HALF: tl.constexpr, HB: tl.constexpr, RANK: tl.constexpr, RB: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, MASKED: tl.constexpr,
) -> tuple:  # fmt: skip
    """Adds one block of queries to dk / scale and dU; tiles of weights are `[BN, BM]`."""
    # Queries past the last one are loaded as zeros, so they add nothing.
    b_q = load_head(p_q, start, width, T, BM, HALF, HB, True)
    b_dout = load_tile(p_dout, start, RANK, T, BM, RANK, RB, True)
    b_facts = load_facts(p_facts, start, T, BM, True)
    b_s = dot(b_k, tl.trans(b_q))
    if MASKED:
        b_s = tl.where(sees(b_facts, start_key + tl.arange(0, BN)), b_s, float("-inf"))
    b_p = tl.math.exp2(b_s * factor - lse_of(b_facts)[None, :])
    b_du = dot(round_to(b_p, b_q.dtype), b_dout, b_du)
    b_ds = b_p * (dot(b_u, tl.trans(b_dout)) - delta_of(b_facts)[None, :])
    b_dk = dot(round_to(b_ds, b_q.dtype), b_q, b_dk)
    return b_dk, b_du


@triton.jit(do_not_specialize=["T", "S"])
def dkv_kernel(
    p_q: tl.tensor, p_k: tl.tensor, p_u: tl.tensor, p_cos: tl.tensor, p_sin: tl.tensor,
    p_spans: tl.tensor, p_dout: tl.tensor, p_facts: tl.tensor, p_dk: tl.tensor, p_du: tl.tensor,
    stride_rope: tl.tensor, stride_spans: tl.tensor,
    T: tl.tensor, S: tl.tensor, heads: tl.tensor, scale: tl.tensor, factor: tl.tensor,
    HALF: tl.constexpr, HB: tl.constexpr, RANK: tl.constexpr, RB: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
) -> None:  # fmt: skip
    """One program computes the gradients of a block of keys of one head, and of their values."""
    # Under causal ranges most queries see the first keys, so the longest programs start first.
    block, head = tl.program_id(0), tl.program_id(1)
    batch, batches = tl.program_id(2).to(tl.int64), tl.num_programs(2).to(tl.int64)
    start, width, column = block * BN, heads * 2 * HALF, head * 2 * HALF
    b_k = load_head(p_k + batch * S * width + column, start, width, S, BN, HALF, HB, True)
    o_u = (head * batches + batch) * S * RANK
    b_u = load_tile(p_u + o_u, start, RANK, S, BN, RANK, RB, True)
    p_q += batch * T * width + column
    p_dout += batch * T * RANK
    p_facts += (batch * heads + head) * T * 4
    p_spans += batch * stride_spans + block * 4
    low, full_low, full_high, high = load_spans(p_spans)

    b_dk = tl.zeros([BN, 2 * HB], tl.float32)
    b_du = tl.zeros([BN, RB], tl.float32)
    for i in range(0, full_low - low + high - full_high):
        at = partial_block(i, low, full_low, full_high) * BM
        b_dk, b_du = accumulate_dkv(
            b_dk, b_du, b_k, b_u, start, at, factor, p_q, p_dout, p_facts, width, T,
            HALF, HB, RANK, RB, BM, BN, True,
        )  # fmt: skip
    for i in range(full_low, full_high):
        b_dk, b_du = accumulate_dkv(
            b_dk, b_du, b_k, b_u, start, i * BM, factor, p_q, p_dout, p_facts, width, T,
            HALF, HB, RANK, RB, BM, BN, False,
        )  # fmt: skip
    p_dk += batch * S * width + column
    p_cos += batch * stride_rope
    p_sin += batch * stride_rope
    store_rope_gradient(scale * b_dk, p_dk, p_cos, p_sin, start, width, S, BN, HALF, HB)
    store_tile(b_du, p_du + o_u, start, RANK, S, BN, RANK, RB)


def backward(
    saved: LorraInputs, lse: Tensor, of_heads: Tensor, d_out: Tensor
) -> tuple[Tensor, ...]:
    """Launches the backward kernels; low-rank products around them use the matrix library.

    Args:
        saved: arguments of the forward.
        lse: `[B, H, T]` fp32, the second result of the forward.
        of_heads: `[B, H, T, r]`, the third.
        d_out: `[B, T, r]`.

    Returns:
        Gradients of x, t, source, c_k, c_v, b_q, b_k, b_v, a_o.
    """
    x, t, source, heads = saved.x, saved.t, saved.source, saved.heads
    (batch, count, width), (keys, rank) = x.shape, (source.shape[1], t.shape[-1])
    k = rope_rows(source, saved.c_k, saved.b_k, saved.cos_k, saved.sin_k, heads)
    u = folded_values(source, saved.c_v, saved.b_v, saved.a_o, heads)
    first, end, _, dq_spans, dkv_spans = saved.ranges
    d_out = d_out.contiguous()
    half = width // heads // 2
    scale = (2 * half) ** -0.5
    d_y = torch.empty(batch, count, width, dtype=x.dtype, device=x.device)
    q = torch.empty(batch, count, width, dtype=x.dtype, device=x.device)
    d_z = torch.empty(batch, keys, width, dtype=x.dtype, device=x.device)
    d_u = torch.empty(heads, batch * keys, rank, dtype=x.dtype, device=x.device)
    facts = torch.empty(batch, heads, count, 4, dtype=torch.int32, device=x.device)
    tile_sizes = {"HALF": half, "HB": padded_width(half), "RANK": rank, "RB": padded_width(rank)}

    blocks = blocks_for("lorra_attention_dq", max(2 * half, rank), x.dtype, x.device)
    with torch.cuda.device_of(x):
        dq_kernel[triton.cdiv(count, blocks.queries), heads, batch](
            x, t, saved.b_q, k, u, saved.cos_q, saved.sin_q, first, end, dq_spans,
            lse, of_heads, d_out, d_y, q, facts,
            x.stride(0), x.stride(1), t.stride(0), t.stride(1), batch_stride(saved.cos_q),
            batch_stride(first), batch_stride(dq_spans), count, keys, heads, scale, scale * LOG2_E,
            **tile_sizes, BM=blocks.queries, BN=blocks.keys,
            num_warps=blocks.warps, num_stages=blocks.stages,
        )  # fmt: skip
    blocks = blocks_for("lorra_attention_dkv", max(2 * half, rank), x.dtype, x.device)
    blocks = for_few_keys(blocks, keys, heads * batch, x.device)
    with torch.cuda.device_of(x):
        dkv_kernel[triton.cdiv(keys, blocks.keys), heads, batch](
            q, k, u, saved.cos_k, saved.sin_k, dkv_spans, d_out, facts, d_z, d_u,
            batch_stride(saved.cos_k), batch_stride(dkv_spans),
            count, keys, heads, scale, scale * LOG2_E,
            **tile_sizes, BM=blocks.queries, BN=blocks.keys,
            num_warps=blocks.warps, num_stages=blocks.stages,
        )  # fmt: skip
    d_t, d_b_q = low_rank_gradients(t, saved.b_q, d_y)
    d_c_k, d_b_k = low_rank_gradients(saved.c_k, saved.b_k, d_z)
    d_source, d_c_v, d_b_v, d_a_o = folded_gradients(
        source, saved.c_v, saved.b_v, saved.a_o, d_u, heads
    )
    return d_y, d_t, d_source + d_z, d_c_k, d_c_v, d_b_q, d_b_k, d_b_v, d_a_o


def low_rank_gradients(t: Tensor, b: Tensor, d_y: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of t `[B, T, r]` and b `[r, D]`, given the gradient of `t b`."""
    return d_y @ b.mT, t.flatten(0, 1).mT @ d_y.flatten(0, 1)
