"""The backward of LoRRA attention: one kernel per block of queries, one per block of keys.

With P the weights of a head, `dP = dout U^T`, shared dout, and `delta_i = sum_j P_ij dP_ij`::

    dq_i = scale sum_j P_ij (dP_ij - delta_i) k_j     dk_j = scale sum_i P_ij (dP_ij - delta_i) q_i
    dU_j = sum_i P_ij dout_i

The output of a single head, from which delta is usually read, is kept nowhere: the kernel over
queries meets the keys twice, first for delta. (One pass could sum `P dP k`, `P k` and `P dP`, but
where one key takes most of the weight their difference loses all its digits.) It leaves the kernel
over keys what that needs of each query: turned rows, log-sum, delta and run.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from wings.kernels.key_ranges import KeyRanges
from wings.kernels.softmax import scores
from wings.kernels.tiles import LOG2_E, dot, padded_width, put, rounded, tile
from wings.kernels.tuning import blocks_for

from .rope import head_tile, put_head, put_turned_back, row_stride, turned_rows, turned_tile
from .values import lorra_values


@dataclass
class Saved:
    """What `lorra_attention` is given, as it explains, with turns `[B or 1, T or S, d / 2]`."""

    heads: int
    key_ranges: KeyRanges
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

    def inputs(self) -> tuple[Tensor, ...]:
        """What has a gradient, in the order of `lorra_attention`."""
        return (
            self.x, self.t, self.source, self.c_k, self.c_v,
            self.b_q, self.b_k, self.b_v, self.a_o,
        )  # fmt: skip


@triton.jit
def meet_keys(
    b_q: tl.tensor, b_dout: tl.tensor, b_lse: tl.tensor, b_first: tl.tensor, b_end: tl.tensor,
    start: tl.tensor, factor: tl.tensor,
    p_k: tl.tensor, p_u: tl.tensor, width: tl.tensor, S: tl.tensor,
    HALF: tl.constexpr, HB: tl.constexpr, RANK: tl.constexpr, RB: tl.constexpr, BN: tl.constexpr,
    MASKED: tl.constexpr,
) -> tuple:  # fmt: skip
    """A block of keys, P and dP of a block of queries."""
    b_k = head_tile(p_k, start, width, S, BN, HALF, HB, MASKED)
    b_s = scores(b_q, b_k, b_first, b_end, start, BN, MASKED)
    b_p = tl.math.exp2(b_s * factor - b_lse[:, None])
    b_u = tile(p_u, start, RANK, S, BN, RANK, RB, MASKED)
    return b_k, b_p, dot(b_dout, tl.trans(b_u))


@triton.jit(do_not_specialize=["T", "S"])
def queries_kernel(
    p_x: tl.tensor, p_t: tl.tensor, p_b: tl.tensor, p_k: tl.tensor, p_u: tl.tensor,
    p_cos: tl.tensor, p_sin: tl.tensor, p_first: tl.tensor, p_end: tl.tensor, p_spans: tl.tensor,
    p_lse: tl.tensor, p_dout: tl.tensor, p_dx: tl.tensor, p_q: tl.tensor, p_facts: tl.tensor,
    stride_xb: tl.tensor, stride_x: tl.tensor, stride_tb: tl.tensor, stride_t: tl.tensor,
    stride_turn: tl.tensor, stride_run: tl.tensor, stride_spans: tl.tensor,
    T: tl.tensor, S: tl.tensor, heads: tl.tensor, scale: tl.tensor, factor: tl.tensor,
    HALF: tl.constexpr, HB: tl.constexpr, RANK: tl.constexpr, RB: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
) -> None:  # fmt: skip
    """One program: the gradient of a block of queries of one head; their turned rows, delta."""
    # Under causal ranges the last queries see most: what takes longest starts first.
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    start, head = block * BM, tl.program_id(1)
    row, rows = tl.program_id(2).to(tl.int64), tl.num_programs(2).to(tl.int64)
    width, column = heads * 2 * HALF, head * 2 * HALF
    o_query = start + tl.arange(0, BM)
    m_query = o_query < T
    p_cos += row * stride_turn
    p_sin += row * stride_turn
    b_t = tile(p_t + row * stride_tb, start, stride_t, T, BM, RANK, RB, True)
    b_q = turned_tile(
        p_x + row * stride_xb + column, b_t, p_b + column, p_cos, p_sin,
        start, stride_x, T, width, BM, HALF, HB, RANK, RB,
    )  # fmt: skip
    put_head(b_q, p_q + row * T * width + column, start, width, T, BM, HALF, HB)
    b_dout = tile(p_dout + row * T * RANK, start, RANK, T, BM, RANK, RB, True)
    # Queries past the end see nothing.
    b_first = tl.load(p_first + row * stride_run + o_query, mask=m_query, other=0)
    b_end = tl.load(p_end + row * stride_run + o_query, mask=m_query, other=0)
    o_head = (row * heads + head) * T + o_query
    b_lse = tl.load(p_lse + o_head, mask=m_query, other=float("inf"))
    p_spans += row * stride_spans + block * 4
    low, whole_low = tl.load(p_spans), tl.load(p_spans + 1)
    whole_high, high = tl.load(p_spans + 2), tl.load(p_spans + 3)
    before = whole_low - low
    p_k += row * S * width + column
    p_u += (head * rows + row) * S * RANK

    b_delta = tl.zeros([BM], tl.float32)
    for i in range(0, before + high - whole_high):
        at = tl.where(i < before, low + i, whole_high + i - before) * BN
        _, b_p, b_dp = meet_keys(
            b_q, b_dout, b_lse, b_first, b_end, at, factor, p_k, p_u, width, S,
            HALF, HB, RANK, RB, BN, True,
        )  # fmt: skip
        b_delta += tl.sum(b_p * b_dp, 1)
    for i in range(whole_low, whole_high):
        _, b_p, b_dp = meet_keys(
            b_q, b_dout, b_lse, b_first, b_end, i * BN, factor, p_k, p_u, width, S,
            HALF, HB, RANK, RB, BN, False,
        )  # fmt: skip
        b_delta += tl.sum(b_p * b_dp, 1)
    b_dq = tl.zeros([BM, 2 * HB], tl.float32)
    for i in range(0, before + high - whole_high):
        at = tl.where(i < before, low + i, whole_high + i - before) * BN
        b_k, b_p, b_dp = meet_keys(
            b_q, b_dout, b_lse, b_first, b_end, at, factor, p_k, p_u, width, S,
            HALF, HB, RANK, RB, BN, True,
        )  # fmt: skip
        b_dq = dot(rounded(b_p * (b_dp - b_delta[:, None]), b_k.dtype), b_k, b_dq)
    for i in range(whole_low, whole_high):
        b_k, b_p, b_dp = meet_keys(
            b_q, b_dout, b_lse, b_first, b_end, i * BN, factor, p_k, p_u, width, S,
            HALF, HB, RANK, RB, BN, False,
        )  # fmt: skip
        b_dq = dot(rounded(b_p * (b_dp - b_delta[:, None]), b_k.dtype), b_k, b_dq)
    p_dx += row * T * width + column
    put_turned_back(scale * b_dq, p_dx, p_cos, p_sin, start, width, T, BM, HALF, HB)
    # Four numbers side by side are one load of the other kernel. One by one, each of its threads
    # would load those of all columns that it holds (32 loads a step in Triton 3.6).
    p_facts += o_head * 4
    tl.store(p_facts, b_lse.to(tl.int32, bitcast=True), mask=m_query)
    tl.store(p_facts + 1, b_delta.to(tl.int32, bitcast=True), mask=m_query)
    tl.store(p_facts + 2, b_first, mask=m_query)
    tl.store(p_facts + 3, b_end, mask=m_query)


@triton.jit
def fact(b_facts: tl.tensor, which: tl.constexpr) -> tl.tensor:
    """One of four whole numbers of each query."""
    return tl.sum(tl.where(tl.arange(0, 4)[None, :] == which, b_facts, 0), 1)


@triton.jit
def meet_queries(
    b_dk: tl.tensor, b_du: tl.tensor, b_k: tl.tensor, b_u: tl.tensor,
    start_key: tl.tensor, start: tl.tensor, factor: tl.tensor,
    p_q: tl.tensor, p_dout: tl.tensor, p_facts: tl.tensor, width: tl.tensor, T: tl.tensor,
    HALF: tl.constexpr, HB: tl.constexpr, RANK: tl.constexpr, RB: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, MASKED: tl.constexpr,
) -> tuple:  # fmt: skip
    """One block of queries, for a block of keys; the tiles of weights are `[BN, BM]`."""
    # Queries past the end have zeros everywhere: they add nothing.
    b_q = head_tile(p_q, start, width, T, BM, HALF, HB, True)
    b_dout = tile(p_dout, start, RANK, T, BM, RANK, RB, True)
    b_facts = tile(p_facts, start, 4, T, BM, 4, 4, True)
    b_s = dot(b_k, tl.trans(b_q))
    if MASKED:
        o_key = start_key + tl.arange(0, BN)
        m_seen = o_key[:, None] >= fact(b_facts, 2)[None, :]
        m_seen = m_seen & (o_key[:, None] < fact(b_facts, 3)[None, :])
        b_s = tl.where(m_seen, b_s, float("-inf"))
    b_lse = fact(b_facts, 0).to(tl.float32, bitcast=True)
    b_p = tl.math.exp2(b_s * factor - b_lse[None, :])
    b_du = dot(rounded(b_p, b_q.dtype), b_dout, b_du)
    b_delta = fact(b_facts, 1).to(tl.float32, bitcast=True)
    b_ds = b_p * (dot(b_u, tl.trans(b_dout)) - b_delta[None, :])
    b_dk = dot(rounded(b_ds, b_q.dtype), b_q, b_dk)
    return b_dk, b_du


@triton.jit(do_not_specialize=["T", "S"])
def keys_kernel(
    p_q: tl.tensor, p_k: tl.tensor, p_u: tl.tensor, p_cos: tl.tensor, p_sin: tl.tensor,
    p_spans: tl.tensor, p_dout: tl.tensor, p_facts: tl.tensor, p_dk: tl.tensor, p_du: tl.tensor,
    stride_turn: tl.tensor, stride_spans: tl.tensor,
    T: tl.tensor, S: tl.tensor, heads: tl.tensor, scale: tl.tensor, factor: tl.tensor,
    HALF: tl.constexpr, HB: tl.constexpr, RANK: tl.constexpr, RB: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
) -> None:  # fmt: skip
    """One program: the gradients of a block of keys of one head and of their values."""
    block, head = tl.program_id(0), tl.program_id(1)
    row, rows = tl.program_id(2).to(tl.int64), tl.num_programs(2).to(tl.int64)
    start, width, column = block * BN, heads * 2 * HALF, head * 2 * HALF
    b_k = head_tile(p_k + row * S * width + column, start, width, S, BN, HALF, HB, True)
    o_u = (head * rows + row) * S * RANK
    b_u = tile(p_u + o_u, start, RANK, S, BN, RANK, RB, True)
    p_q += row * T * width + column
    p_dout += row * T * RANK
    p_facts += (row * heads + head) * T * 4
    p_spans += row * stride_spans + block * 4
    low, whole_low = tl.load(p_spans), tl.load(p_spans + 1)
    whole_high, high = tl.load(p_spans + 2), tl.load(p_spans + 3)
    before = whole_low - low

    b_dk = tl.zeros([BN, 2 * HB], tl.float32)
    b_du = tl.zeros([BN, RB], tl.float32)
    for i in range(0, before + high - whole_high):
        at = tl.where(i < before, low + i, whole_high + i - before) * BM
        b_dk, b_du = meet_queries(
            b_dk, b_du, b_k, b_u, start, at, factor, p_q, p_dout, p_facts, width, T,
            HALF, HB, RANK, RB, BM, BN, True,
        )  # fmt: skip
    for i in range(whole_low, whole_high):
        b_dk, b_du = meet_queries(
            b_dk, b_du, b_k, b_u, start, i * BM, factor, p_q, p_dout, p_facts, width, T,
            HALF, HB, RANK, RB, BM, BN, False,
        )  # fmt: skip
    p_dk += row * S * width + column
    p_cos += row * stride_turn
    p_sin += row * stride_turn
    put_turned_back(scale * b_dk, p_dk, p_cos, p_sin, start, width, S, BN, HALF, HB)
    put(b_du, p_du + o_u, start, RANK, S, BN, RANK, RB)


def backward(saved: Saved, lse: Tensor, d_out: Tensor) -> tuple[Tensor, ...]:
    """Launches the backward kernels; the products around them are the matrix library's.

    Args:
        saved: as the forward had it.
        lse: `[B, H, T]` fp32, what the forward returned beside its output.
        d_out: `[B, T, r]`.

    Returns:
        Gradients of x, t, source, c_k, c_v, b_q, b_k, b_v, a_o.
    """
    x, t, source, key_ranges, heads = saved.x, saved.t, saved.source, saved.key_ranges, saved.heads
    (batch, count, width), (keys, rank) = x.shape, (source.shape[1], t.shape[-1])
    if not (batch and count and keys):
        return tuple(torch.zeros_like(tensor) for tensor in saved.inputs())
    k = turned_rows(source, saved.c_k, saved.b_k, saved.cos_k, saved.sin_k, heads)
    with torch.enable_grad():
        parts = (source, saved.c_v, saved.b_v, saved.a_o)
        of_values = [tensor.detach().requires_grad_() for tensor in parts]
        rows, c_v, b_v, a_o = of_values
        u = lorra_values(rows, c_v, b_v, a_o, heads)
    d_out, first, end = (
        d_out.contiguous(),
        key_ranges.first,
        key_ranges.end,
    )
    half = width // heads // 2
    scale = (2 * half) ** -0.5
    d_y = torch.empty(batch, count, width, dtype=x.dtype, device=x.device)
    q = torch.empty(batch, count, width, dtype=x.dtype, device=x.device)
    d_z = torch.empty(batch, keys, width, dtype=x.dtype, device=x.device)
    d_u = torch.empty(heads, batch * keys, rank, dtype=x.dtype, device=x.device)
    facts = torch.empty(batch, heads, count, 4, dtype=torch.int32, device=x.device)
    tile_sizes = {"HALF": half, "HB": padded_width(half), "RANK": rank, "RB": padded_width(rank)}

    blocks = blocks_for("lorra_attention_queries", max(2 * half, rank), x.dtype, x.device)
    spans, _ = key_ranges.block_spans(blocks.queries, blocks.keys)
    with torch.cuda.device_of(x):
        queries_kernel[triton.cdiv(count, blocks.queries), heads, batch](
            x, t, saved.b_q, k, u, saved.cos_q, saved.sin_q, first, end, spans,
            lse, d_out, d_y, q, facts,
            x.stride(0), x.stride(1), t.stride(0), t.stride(1), row_stride(saved.cos_q),
            row_stride(first), row_stride(spans), count, keys, heads, scale, scale * LOG2_E,
            **tile_sizes, BM=blocks.queries, BN=blocks.keys,
            num_warps=blocks.warps, num_stages=blocks.stages,
        )  # fmt: skip
    blocks = blocks_for("lorra_attention_keys", max(2 * half, rank), x.dtype, x.device)
    _, spans = key_ranges.block_spans(blocks.queries, blocks.keys)
    with torch.cuda.device_of(x):
        keys_kernel[triton.cdiv(keys, blocks.keys), heads, batch](
            q, k, u, saved.cos_k, saved.sin_k, spans, d_out, facts, d_z, d_u,
            row_stride(saved.cos_k), row_stride(spans),
            count, keys, heads, scale, scale * LOG2_E,
            **tile_sizes, BM=blocks.queries, BN=blocks.keys,
            num_warps=blocks.warps, num_stages=blocks.stages,
        )  # fmt: skip
    d_t, d_b_q = low_rank_gradients(t, saved.b_q, d_y)
    d_c_k, d_b_k = low_rank_gradients(saved.c_k, saved.b_k, d_z)
    d_source, d_c_v, d_b_v, d_a_o = torch.autograd.grad(u, of_values, d_u)
    return d_y, d_t, d_source + d_z, d_c_k, d_c_v, d_b_q, d_b_k, d_b_v, d_a_o


def low_rank_gradients(t: Tensor, b: Tensor, d_y: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of t `[B, T, r]` and b `[r, D]`, given that of `t b`."""
    return d_y @ b.mT, t.flatten(0, 1).mT @ d_y.flatten(0, 1)
