"""Gradients of routed attention: one kernel over blocks of queries, one over blocks of keys.

With weights P, D = d_out v^T + d_sums columns^T and delta_i = sum_j P_ij D_ij, the gradient of the
scores is P (D - delta). Both kernels recompute P from the scores and the saved lse. A single kernel
would recompute once, but would add dq or dk and dv with atomics: slower, and different in each run.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wings.kernels.row_facts import delta_of, load_facts, lse_of, sees, store_facts
from wings.kernels.softmax import block_scores, load_spans, partial_block
from wings.kernels.tiles import (
    LOG2_E,
    dot,
    load_tile,
    pad_columns,
    padded_width,
    round_to,
    store_tile,
)
from wings.kernels.tuning import blocks_for, enough_programs


@triton.jit
def accumulate_dq(
    b_dq: tl.tensor, b_q: tl.tensor, b_do: tl.tensor, b_ds: tl.tensor,
    b_lse: tl.tensor, b_delta: tl.tensor, b_first: tl.tensor, b_end: tl.tensor,
    start: tl.tensor, factor: tl.tensor, p_k: tl.tensor, p_v: tl.tensor, p_w: tl.tensor,
    stride_ks: tl.tensor, stride_vs: tl.tensor, S: tl.tensor, D: tl.constexpr, E: tl.constexpr,
    BD: tl.constexpr, BE: tl.constexpr, BC: tl.constexpr, BN: tl.constexpr,
    MASKED: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Adds one block of keys to dq / scale."""
    b_k = load_tile(p_k, start, stride_ks, S, BN, D, BD, MASKED)
    b_v = load_tile(p_v, start, stride_vs, S, BN, E, BE, MASKED)
    b_w = load_tile(p_w, start, BC, S, BN, BC, BC, MASKED)
    b_s = block_scores(b_q, b_k, b_first, b_end, start, BN, MASKED)
    b_p = tl.math.exp2(b_s * factor - b_lse[:, None])
    # D = d_out v^T + d_sums columns^T: the columns act like further columns of v.
    b_dp = dot(b_do, tl.trans(b_v))
    b_dp = dot(b_ds, tl.trans(b_w), b_dp)
    b_dp = round_to(b_p * (b_dp - b_delta[:, None]), b_k.dtype)
    return dot(b_dp, b_k, b_dq)


@triton.jit
def dq_kernel(
    p_q: tl.tensor, p_k: tl.tensor, p_v: tl.tensor, p_w: tl.tensor, p_out: tl.tensor,
    p_sums: tl.tensor, p_lse: tl.tensor, p_do: tl.tensor, p_ds: tl.tensor,
    p_dq: tl.tensor, p_facts: tl.tensor,
    p_first: tl.tensor, p_end: tl.tensor, p_spans: tl.tensor,
    stride_qb: tl.tensor, stride_qh: tl.tensor, stride_qt: tl.tensor,
    stride_kb: tl.tensor, stride_kg: tl.tensor, stride_ks: tl.tensor,
    stride_vb: tl.tensor, stride_vg: tl.tensor, stride_vs: tl.tensor,
    stride_ob: tl.tensor, stride_ot: tl.tensor, stride_oh: tl.tensor,
    per_batch: tl.tensor, factor: tl.tensor, scale: tl.tensor, T: tl.tensor, S: tl.tensor,
    H: tl.tensor, GROUP: tl.constexpr, D: tl.constexpr, E: tl.constexpr, C: tl.constexpr,
    BD: tl.constexpr, BE: tl.constexpr, BC: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
) -> None:  # fmt: skip
    """One program computes dq and delta of a block of queries of one head."""
    count = tl.cdiv(T, BM)
    block = count - 1 - tl.program_id(0) % count
    batch = (tl.program_id(0) // count // H).to(tl.int64)
    head = (tl.program_id(0) // count % H).to(tl.int64)
    first_query = (batch * H + head) * T
    start = block * BM
    o_query = start + tl.arange(0, BM)
    m_query = o_query < T
    p_q += batch * stride_qb + head * stride_qh
    p_do += batch * stride_ob + head * stride_oh
    b_q = load_tile(p_q, start, stride_qt, T, BM, D, BD, True)
    b_do = load_tile(p_do, start, stride_ot, T, BM, E, BE, True)
    b_ds = load_tile(p_ds + batch * T * BC, start, BC, T, BM, BC, BC, True)
    # delta = sum_j P_ij D_ij = out . d_out + sums . d_sums: no pass over the keys is needed.
    b_out = load_tile(p_out + batch * T * H * E + head * E, start, H * E, T, BM, E, BE, True)
    b_delta = tl.sum(b_out.to(tl.float32) * b_do.to(tl.float32), 1)
    b_sums = load_tile(p_sums + first_query * C, start, C, T, BM, C, BC, True)
    b_delta += tl.sum(b_sums * b_ds.to(tl.float32), 1)
    b_lse = tl.load(p_lse + first_query + o_query, mask=m_query, other=0.0)

    p_k += batch * stride_kb + head // GROUP * stride_kg
    p_v += batch * stride_vb + head // GROUP * stride_vg
    p_w += batch * S * BC
    b_first = tl.load(p_first + batch * per_batch * T + o_query, mask=m_query, other=0)
    b_end = tl.load(p_end + batch * per_batch * T + o_query, mask=m_query, other=0)
    store_facts(p_facts + (first_query + o_query) * 4, b_lse, b_delta, b_first, b_end, m_query)
    p_spans += (batch * per_batch * count + block) * 4
    low, full_low, full_high, high = load_spans(p_spans)

    b_dq = tl.zeros([BM, BD], tl.float32)
    for i in range(0, full_low - low + high - full_high):
        at = partial_block(i, low, full_low, full_high) * BN
        b_dq = accumulate_dq(
            b_dq, b_q, b_do, b_ds, b_lse, b_delta, b_first, b_end, at, factor, p_k, p_v, p_w,
            stride_ks, stride_vs, S, D, E, BD, BE, BC, BN, True,
        )  # fmt: skip
    for i in range(full_low, full_high):
        b_dq = accumulate_dq(
            b_dq, b_q, b_do, b_ds, b_lse, b_delta, b_first, b_end, i * BN, factor, p_k, p_v, p_w,
            stride_ks, stride_vs, S, D, E, BD, BE, BC, BN, False,
        )  # fmt: skip
    store_tile(b_dq * scale, p_dq + batch * T * H * D + head * D, start, H * D, T, BM, D, BD)


@triton.jit
def accumulate_dkv(
    b_dk: tl.tensor, b_dv: tl.tensor, b_dw: tl.tensor, b_k: tl.tensor, b_v: tl.tensor,
    b_w: tl.tensor, o_key: tl.tensor, start: tl.tensor, factor: tl.tensor,
    p_q: tl.tensor, p_do: tl.tensor, p_ds: tl.tensor, p_facts: tl.tensor,
    stride_qt: tl.tensor, stride_ot: tl.tensor, T: tl.tensor,
    D: tl.constexpr, E: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, BC: tl.constexpr,
    BM: tl.constexpr, DW: tl.constexpr, MASKED: tl.constexpr,
) -> tuple:  # fmt: skip
    """Adds one block of queries to dk / scale, dv and dcolumns."""
    b_q = load_tile(p_q, start, stride_qt, T, BM, D, BD, MASKED)
    b_do = load_tile(p_do, start, stride_ot, T, BM, E, BE, MASKED)
    b_ds = load_tile(p_ds, start, BC, T, BM, BC, BC, MASKED)
    b_facts = load_facts(p_facts, start, T, BM, MASKED)
    # Transposed scores, so that dv and dk are products without a transpose of the weights.
    b_s = dot(b_k, tl.trans(b_q))
    if MASKED:
        b_s = tl.where(sees(b_facts, o_key), b_s, float("-inf"))
    b_p = tl.math.exp2(b_s * factor - lse_of(b_facts)[None, :])
    b_weights = round_to(b_p, b_q.dtype)
    b_dv = dot(b_weights, b_do, b_dv)
    if DW:
        b_dw = dot(b_weights, b_ds, b_dw)
    b_dp = dot(b_v, tl.trans(b_do))
    b_dp = dot(b_w, tl.trans(b_ds), b_dp)
    b_dp = round_to(b_p * (b_dp - delta_of(b_facts)[None, :]), b_q.dtype)
    b_dk = dot(b_dp, b_q, b_dk)
    return b_dk, b_dv, b_dw


@triton.jit
def dkv_kernel(
    p_q: tl.tensor, p_k: tl.tensor, p_v: tl.tensor, p_w: tl.tensor,
    p_facts: tl.tensor, p_do: tl.tensor, p_ds: tl.tensor,
    p_dk: tl.tensor, p_dv: tl.tensor, p_dw: tl.tensor, p_spans: tl.tensor,
    stride_qb: tl.tensor, stride_qh: tl.tensor, stride_qt: tl.tensor,
    stride_kb: tl.tensor, stride_kg: tl.tensor, stride_ks: tl.tensor,
    stride_vb: tl.tensor, stride_vg: tl.tensor, stride_vs: tl.tensor,
    stride_ob: tl.tensor, stride_ot: tl.tensor, stride_oh: tl.tensor,
    per_batch: tl.tensor, factor: tl.tensor, scale: tl.tensor, T: tl.tensor, S: tl.tensor,
    B: tl.tensor, H: tl.tensor, G: tl.tensor, splits: tl.tensor,
    D: tl.constexpr, E: tl.constexpr, C: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr,
    BC: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, DW: tl.constexpr,
) -> None:  # fmt: skip
    """One program computes dk, dv and dcolumns of a block of keys, from 1 / splits of its heads."""
    count = tl.cdiv(S, BN)
    # Under causal ranges most queries see the first keys. The longest programs start first.
    block = tl.program_id(0) % count
    split = tl.program_id(0) // count % splits
    key_head = (tl.program_id(0) // count // splits % G).to(tl.int64)
    batch = (tl.program_id(0) // count // splits // G).to(tl.int64)
    start = block * BN
    o_key = start + tl.arange(0, BN)
    p_k += batch * stride_kb + key_head * stride_kg
    p_v += batch * stride_vb + key_head * stride_vg
    b_k = load_tile(p_k, start, stride_ks, S, BN, D, BD, True)
    b_v = load_tile(p_v, start, stride_vs, S, BN, E, BE, True)
    b_w = load_tile(p_w + batch * S * BC, start, BC, S, BN, BC, BC, True)
    p_ds += batch * T * BC
    p_spans += (batch * per_batch * count + block) * 4
    low, full_low, full_high, high = load_spans(p_spans)
    # An incomplete last block of queries is visited as a partial one, so that its loads are masked.
    full_high = tl.minimum(full_high, T // BM)
    full_low = tl.minimum(full_low, full_high)

    b_dk = tl.zeros([BN, BD], tl.float32)
    b_dv = tl.zeros([BN, BE], tl.float32)
    b_dw = tl.zeros([BN, BC], tl.float32)
    # The query heads that share a key head are summed in registers: no atomics, no extra memory.
    heads = H // G // splits
    for index in range(0, heads):
        head = (key_head * splits + split) * heads + index
        p_head_q = p_q + batch * stride_qb + head * stride_qh
        p_head_do = p_do + batch * stride_ob + head * stride_oh
        p_head_facts = p_facts + (batch * H + head) * T * 4
        for i in range(0, full_low - low + high - full_high):
            at = partial_block(i, low, full_low, full_high) * BM
            b_dk, b_dv, b_dw = accumulate_dkv(
                b_dk, b_dv, b_dw, b_k, b_v, b_w, o_key, at, factor, p_head_q, p_head_do, p_ds,
                p_head_facts, stride_qt, stride_ot, T,
                D, E, BD, BE, BC, BM, DW, True,
            )  # fmt: skip
        for i in range(full_low, full_high):
            b_dk, b_dv, b_dw = accumulate_dkv(
                b_dk, b_dv, b_dw, b_k, b_v, b_w, o_key, i * BM, factor, p_head_q, p_head_do, p_ds,
                p_head_facts, stride_qt, stride_ot, T,
                D, E, BD, BE, BC, BM, DW, False,
            )  # fmt: skip

    at = (split * B + batch) * S * G + key_head
    store_tile(b_dk * scale, p_dk + at * D, start, G * D, S, BN, D, BD)
    store_tile(b_dv, p_dv + at * E, start, G * E, S, BN, E, BE)
    if DW:
        at = (batch * G + key_head) * splits + split
        store_tile(b_dw, p_dw + at * S * C, start, C, S, BN, C, BC)


def backward(
    q: Tensor, k: Tensor, v: Tensor, columns: Tensor, out: Tensor, sums: Tensor, lse: Tensor,
    d_out: Tensor, d_sums: Tensor, ranges: list[Tensor], scale: float, columns_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Launches both kernels.

    Args:
        q, k, v, columns, ranges, scale: arguments of the forward.
        out, sums, lse: results of the forward.
        d_out: `[B, T, H, e]`, last stride 1.
        d_sums: `[B, T, C]`, the gradient of the sums added over all heads.
        columns_grad: True to compute the gradient of the columns.

    Returns:
        Gradients of q, k, v in their shapes and dtype, and of columns in fp32 or None.
    """
    (B, H, T, D), (_, G, S, E), C = q.shape, v.shape, columns.shape[-1]
    w, d_sums = pad_columns(columns, q.dtype), pad_columns(d_sums, q.dtype)
    first, end, _, dq_spans, dkv_spans = ranges
    BD, BE = padded_width(D), padded_width(E)
    strides = (*q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *d_out.stride()[:3])
    numbers = (int(first.shape[0] > 1), scale * LOG2_E, scale, T, S)
    widths = {"D": D, "E": E, "C": C, "BD": BD, "BE": BE, "BC": w.shape[-1]}

    blocks = blocks_for("routed_attention_dq", max(BD, BE), q.dtype, q.device)
    dq = torch.empty(B, T, H, D, dtype=q.dtype, device=q.device)
    facts = torch.empty(B, H, T, 4, dtype=torch.int32, device=q.device)
    dq_kernel[(triton.cdiv(T, blocks.queries) * B * H,)](
        q, k, v, w, out, sums, lse, d_out, d_sums, dq, facts,
        first, end, dq_spans, *strides, *numbers, H,
        GROUP=H // G, **widths, BM=blocks.queries, BN=blocks.keys,
        num_warps=blocks.warps, num_stages=blocks.stages,
    )  # fmt: skip

    blocks = blocks_for("routed_attention_dkv", max(BD, BE), q.dtype, q.device)
    programs = triton.cdiv(S, blocks.keys) * B * G
    splits = splits_of_group(H // G, programs, q.device)
    # Partial sums are kept in fp32 and rounded once.
    dtype = q.dtype if splits == 1 else torch.float32
    dk = torch.empty(splits, B, S, G, D, dtype=dtype, device=q.device)
    dv = torch.empty(splits, B, S, G, E, dtype=dtype, device=q.device)
    # All heads add to the gradient of the columns: one part per program, summed by torch in fp32.
    dw = torch.empty(B, G * splits, S, C, dtype=torch.float32, device=q.device)
    dkv_kernel[(programs * splits,)](
        q, k, v, w, facts, d_out, d_sums, dk, dv, dw,
        dkv_spans, *strides, *numbers,
        B, H, G, splits, **widths, BM=blocks.queries, BN=blocks.keys,
        DW=columns_grad,
        num_warps=blocks.warps, num_stages=blocks.stages,
    )  # fmt: skip
    dk, dv = (x[0] if splits == 1 else x.sum(0).to(q.dtype) for x in (dk, dv))
    return (
        dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2),
        dw.sum(1) if columns_grad else None,
    )  # fmt: skip


def splits_of_group(group: int, programs: int, device: torch.device) -> int:
    """Number of programs that share the query heads of one key head.

    The smallest that fills the GPU, because each split writes its own dk and dv in fp32. Long rows
    or many key heads need one.
    """
    enough = enough_programs(device)
    return next(
        n for n in range(1, group + 1) if group % n == 0 and (programs * n >= enough or n == group)
    )
