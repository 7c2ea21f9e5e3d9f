"""The gradients of routed attention: one pass over blocks of queries, one over blocks of keys.

With D = d_out v^T + d_sums columns^T, P the weights and delta_i = sum_j P_ij D_ij, the scores'
gradient is P (D - delta). Both passes make P anew from the scores and the saved lse. Nothing is
added up by several programs at once, so the result is the same in every run.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wings.kernels.key_ranges import KeyRanges
from wings.kernels.softmax import scores
from wings.kernels.tiles import LOG2_E, dot, padded, padded_width, put, rounded, tile
from wings.kernels.tuning import blocks_for


@triton.jit
def gather_dq(
    b_dq: tl.tensor, b_q: tl.tensor, b_do: tl.tensor, b_ds: tl.tensor,
    b_lse: tl.tensor, b_delta: tl.tensor, b_first: tl.tensor, b_end: tl.tensor,
    start: tl.tensor, factor: tl.tensor, p_k: tl.tensor, p_v: tl.tensor, p_w: tl.tensor,
    stride_ks: tl.tensor, stride_vs: tl.tensor, S: tl.tensor, D: tl.constexpr, E: tl.constexpr,
    BD: tl.constexpr, BE: tl.constexpr, BC: tl.constexpr, BN: tl.constexpr,
    MASKED: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """What one block of keys adds to dq / scale."""
    b_k = tile(p_k, start, stride_ks, S, BN, D, BD, MASKED)
    b_v = tile(p_v, start, stride_vs, S, BN, E, BE, MASKED)
    b_w = tile(p_w, start, BC, S, BN, BC, BC, MASKED)
    b_s = scores(b_q, b_k, b_first, b_end, start, BN, MASKED)
    b_p = tl.math.exp2(b_s * factor - b_lse[:, None])
    b_dp = dot(b_do, tl.trans(b_v))
    b_dp = dot(b_ds, tl.trans(b_w), b_dp)
    b_dp = rounded(b_p * (b_dp - b_delta[:, None]), b_k.dtype)
    return dot(b_dp, b_k, b_dq)


@triton.jit
def queries_kernel(
    p_q: tl.tensor, p_k: tl.tensor, p_v: tl.tensor, p_w: tl.tensor, p_out: tl.tensor,
    p_sums: tl.tensor, p_lse: tl.tensor, p_do: tl.tensor, p_ds: tl.tensor,
    p_dq: tl.tensor, p_delta: tl.tensor,
    p_first: tl.tensor, p_end: tl.tensor, p_spans: tl.tensor,
    stride_qb: tl.tensor, stride_qh: tl.tensor, stride_qt: tl.tensor,
    stride_kb: tl.tensor, stride_kg: tl.tensor, stride_ks: tl.tensor,
    stride_vb: tl.tensor, stride_vg: tl.tensor, stride_vs: tl.tensor,
    stride_ob: tl.tensor, stride_ot: tl.tensor, stride_oh: tl.tensor,
    per_row: tl.tensor, factor: tl.tensor, scale: tl.tensor, T: tl.tensor, S: tl.tensor,
    H: tl.tensor, GROUP: tl.constexpr, D: tl.constexpr, E: tl.constexpr, C: tl.constexpr,
    BD: tl.constexpr, BE: tl.constexpr, BC: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
) -> None:  # fmt: skip
    """One program: dq and delta of a block of queries of one head."""
    count = tl.cdiv(T, BM)
    block = count - 1 - tl.program_id(0) % count
    head_row = tl.program_id(0) // count
    row, head = (head_row // H).to(tl.int64), (head_row % H).to(tl.int64)
    start = block * BM
    o_query = start + tl.arange(0, BM)
    m_query = o_query < T
    b_q = tile(p_q + row * stride_qb + head * stride_qh, start, stride_qt, T, BM, D, BD, True)
    b_do = tile(p_do + row * stride_ob + head * stride_oh, start, stride_ot, T, BM, E, BE, True)
    b_ds = tile(p_ds + row * T * BC, start, BC, T, BM, BC, BC, True)
    # delta, from what the weights were summed to.
    b_out = tile(p_out + row * T * H * E + head * E, start, H * E, T, BM, E, BE, True)
    b_delta = tl.sum(b_out.to(tl.float32) * b_do.to(tl.float32), 1)
    b_sums = tile(p_sums + head_row.to(tl.int64) * T * C, start, C, T, BM, C, BC, True)
    b_delta += tl.sum(b_sums * b_ds.to(tl.float32), 1)
    tl.store(p_delta + head_row.to(tl.int64) * T + o_query, b_delta, mask=m_query)
    b_lse = tl.load(p_lse + head_row.to(tl.int64) * T + o_query, mask=m_query, other=0.0)

    p_k += row * stride_kb + head // GROUP * stride_kg
    p_v += row * stride_vb + head // GROUP * stride_vg
    p_w += row * S * BC
    b_first = tl.load(p_first + row * per_row * T + o_query, mask=m_query, other=0)
    b_end = tl.load(p_end + row * per_row * T + o_query, mask=m_query, other=0)
    p_spans += (row * per_row * count + block) * 4
    low, whole_low = tl.load(p_spans), tl.load(p_spans + 1)
    whole_high, high = tl.load(p_spans + 2), tl.load(p_spans + 3)

    b_dq = tl.zeros([BM, BD], tl.float32)
    before = whole_low - low
    for i in range(0, before + high - whole_high):
        at = tl.where(i < before, low + i, whole_high + i - before) * BN
        b_dq = gather_dq(
            b_dq, b_q, b_do, b_ds, b_lse, b_delta, b_first, b_end, at, factor, p_k, p_v, p_w,
            stride_ks, stride_vs, S, D, E, BD, BE, BC, BN, True,
        )  # fmt: skip
    for i in range(whole_low, whole_high):
        b_dq = gather_dq(
            b_dq, b_q, b_do, b_ds, b_lse, b_delta, b_first, b_end, i * BN, factor, p_k, p_v, p_w,
            stride_ks, stride_vs, S, D, E, BD, BE, BC, BN, False,
        )  # fmt: skip
    put(b_dq * scale, p_dq + row * T * H * D + head * D, start, H * D, T, BM, D, BD)


@triton.jit
def gather_dkv(
    b_dk: tl.tensor, b_dv: tl.tensor, b_dw: tl.tensor, b_k: tl.tensor, b_v: tl.tensor,
    b_w: tl.tensor, o_key: tl.tensor, start: tl.tensor, factor: tl.tensor,
    p_q: tl.tensor, p_do: tl.tensor, p_ds: tl.tensor, p_lse: tl.tensor, p_delta: tl.tensor,
    p_first: tl.tensor, p_end: tl.tensor, stride_qt: tl.tensor, stride_ot: tl.tensor, T: tl.tensor,
    D: tl.constexpr, E: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, BC: tl.constexpr,
    BM: tl.constexpr, DW: tl.constexpr, MASKED: tl.constexpr,
) -> tuple:  # fmt: skip
    """What one block of queries adds to dk / scale, dv and dcolumns."""
    o_query = start + tl.arange(0, BM)
    b_q = tile(p_q, start, stride_qt, T, BM, D, BD, MASKED)
    b_do = tile(p_do, start, stride_ot, T, BM, E, BE, MASKED)
    b_ds = tile(p_ds, start, BC, T, BM, BC, BC, MASKED)
    if MASKED:
        m_query = o_query < T
        b_lse = tl.load(p_lse + o_query, mask=m_query, other=0.0)
        b_delta = tl.load(p_delta + o_query, mask=m_query, other=0.0)
    else:
        b_lse, b_delta = tl.load(p_lse + o_query), tl.load(p_delta + o_query)
    b_s = dot(b_k, tl.trans(b_q))
    if MASKED:
        b_first = tl.load(p_first + o_query, mask=m_query, other=0)
        b_end = tl.load(p_end + o_query, mask=m_query, other=0)
        m_seen = (o_key[:, None] >= b_first[None, :]) & (o_key[:, None] < b_end[None, :])
        b_s = tl.where(m_seen, b_s, float("-inf"))
    b_p = tl.math.exp2(b_s * factor - b_lse[None, :])
    b_part = rounded(b_p, b_q.dtype)
    b_dv = dot(b_part, b_do, b_dv)
    if DW:
        b_dw = dot(b_part, b_ds, b_dw)
    b_dp = dot(b_v, tl.trans(b_do))
    b_dp = dot(b_w, tl.trans(b_ds), b_dp)
    b_dp = rounded(b_p * (b_dp - b_delta[None, :]), b_q.dtype)
    b_dk = dot(b_dp, b_q, b_dk)
    return b_dk, b_dv, b_dw


@triton.jit
def keys_kernel(
    p_q: tl.tensor, p_k: tl.tensor, p_v: tl.tensor, p_w: tl.tensor,
    p_lse: tl.tensor, p_delta: tl.tensor, p_do: tl.tensor, p_ds: tl.tensor,
    p_dk: tl.tensor, p_dv: tl.tensor, p_dw: tl.tensor,
    p_first: tl.tensor, p_end: tl.tensor, p_spans: tl.tensor,
    stride_qb: tl.tensor, stride_qh: tl.tensor, stride_qt: tl.tensor,
    stride_kb: tl.tensor, stride_kg: tl.tensor, stride_ks: tl.tensor,
    stride_vb: tl.tensor, stride_vg: tl.tensor, stride_vs: tl.tensor,
    stride_ob: tl.tensor, stride_ot: tl.tensor, stride_oh: tl.tensor,
    per_row: tl.tensor, factor: tl.tensor, scale: tl.tensor, T: tl.tensor, S: tl.tensor,
    B: tl.tensor, H: tl.tensor, G: tl.tensor, parts: tl.tensor,
    D: tl.constexpr, E: tl.constexpr, C: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr,
    BC: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, DW: tl.constexpr,
) -> None:  # fmt: skip
    """One program: dk, dv, dcolumns of a block of keys, from 1 / parts of the heads that use it."""
    count = tl.cdiv(S, BN)
    # Under causal ranges the first keys are seen most: what takes longest starts first.
    block = tl.program_id(0) % count
    part = tl.program_id(0) // count % parts
    key_head = (tl.program_id(0) // count // parts % G).to(tl.int64)
    row = (tl.program_id(0) // count // parts // G).to(tl.int64)
    start = block * BN
    o_key = start + tl.arange(0, BN)
    b_k = tile(p_k + row * stride_kb + key_head * stride_kg, start, stride_ks, S, BN, D, BD, True)
    b_v = tile(p_v + row * stride_vb + key_head * stride_vg, start, stride_vs, S, BN, E, BE, True)
    b_w = tile(p_w + row * S * BC, start, BC, S, BN, BC, BC, True)
    p_ds += row * T * BC
    p_first += row * per_row * T
    p_end += row * per_row * T
    p_spans += (row * per_row * count + block) * 4
    low, high = tl.load(p_spans), tl.load(p_spans + 3)
    # Blocks that the last query does not fill count as masked.
    whole_high = tl.minimum(tl.load(p_spans + 2), T // BM)
    whole_low = tl.minimum(tl.load(p_spans + 1), whole_high)
    before = whole_low - low

    b_dk = tl.zeros([BN, BD], tl.float32)
    b_dv = tl.zeros([BN, BE], tl.float32)
    b_dw = tl.zeros([BN, BC], tl.float32)
    heads = H // G // parts
    for index in range(0, heads):
        head = (key_head * parts + part) * heads + index
        p_one_q = p_q + row * stride_qb + head * stride_qh
        p_one_do = p_do + row * stride_ob + head * stride_oh
        p_one_lse = p_lse + (row * H + head) * T
        p_one_delta = p_delta + (row * H + head) * T
        for i in range(0, before + high - whole_high):
            at = tl.where(i < before, low + i, whole_high + i - before) * BM
            b_dk, b_dv, b_dw = gather_dkv(
                b_dk, b_dv, b_dw, b_k, b_v, b_w, o_key, at, factor, p_one_q, p_one_do, p_ds,
                p_one_lse, p_one_delta, p_first, p_end, stride_qt, stride_ot, T,
                D, E, BD, BE, BC, BM, DW, True,
            )  # fmt: skip
        for i in range(whole_low, whole_high):
            b_dk, b_dv, b_dw = gather_dkv(
                b_dk, b_dv, b_dw, b_k, b_v, b_w, o_key, i * BM, factor, p_one_q, p_one_do, p_ds,
                p_one_lse, p_one_delta, p_first, p_end, stride_qt, stride_ot, T,
                D, E, BD, BE, BC, BM, DW, False,
            )  # fmt: skip

    at = (part * B + row) * S * G + key_head
    put(b_dk * scale, p_dk + at * D, start, G * D, S, BN, D, BD)
    put(b_dv, p_dv + at * E, start, G * E, S, BN, E, BE)
    if DW:
        at = (row * G + key_head) * parts + part
        put(b_dw, p_dw + at * S * C, start, C, S, BN, C, BC)


def backward(
    q: Tensor, k: Tensor, v: Tensor, columns: Tensor, out: Tensor, sums: Tensor, lse: Tensor,
    d_out: Tensor, d_sums: Tensor, key_ranges: KeyRanges, scale: float, columns_too: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Launches both kernels.

    Args:
        q, k, v, columns, key_ranges, scale: as the forward took them.
        out, sums, lse: as it returned them.
        d_out: `[B, T, H, e]`, last dimension dense.
        d_sums: `[B, T, C]`, the gradient of the sums over all heads.
        columns_too: whether the gradient of the columns is wanted.

    Returns:
        Gradients of q, k, v in their shapes and dtype, and of columns in fp32 or None.
    """
    (B, H, T, D), (_, G, S, E), C = q.shape, v.shape, columns.shape[-1]
    w, d_sums = padded(columns, q.dtype), padded(d_sums, q.dtype)
    first, end = key_ranges.first, key_ranges.end
    BD, BE = padded_width(D), padded_width(E)
    strides = (*q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *d_out.stride()[:3])
    numbers = (int(first.shape[0] > 1), scale * LOG2_E, scale, T, S)
    widths = {"D": D, "E": E, "C": C, "BD": BD, "BE": BE, "BC": w.shape[-1]}

    blocks = blocks_for("routed_attention_queries", max(BD, BE), q.dtype, q.device)
    dq = torch.empty(B, T, H, D, dtype=q.dtype, device=q.device)
    delta = torch.empty(B, H, T, dtype=torch.float32, device=q.device)
    queries_kernel[(triton.cdiv(T, blocks.queries) * B * H,)](
        q, k, v, w, out, sums, lse, d_out, d_sums, dq, delta,
        first, end, key_ranges.block_spans(blocks.queries, blocks.keys)[0], *strides, *numbers, H,
        GROUP=H // G, **widths, BM=blocks.queries, BN=blocks.keys,
        num_warps=blocks.warps, num_stages=blocks.stages,
    )  # fmt: skip

    blocks = blocks_for("routed_attention_keys", max(BD, BE), q.dtype, q.device)
    programs = triton.cdiv(S, blocks.keys) * B * G
    parts = parts_of_group(H // G, programs, q.device)
    dtype = q.dtype if parts == 1 else torch.float32
    dk = torch.empty(parts, B, S, G, D, dtype=dtype, device=q.device)
    dv = torch.empty(parts, B, S, G, E, dtype=dtype, device=q.device)
    dw = torch.empty(B, G * parts, S, C, dtype=torch.float32, device=q.device)
    keys_kernel[(programs * parts,)](
        q, k, v, w, lse, delta, d_out, d_sums, dk, dv, dw,
        first, end, key_ranges.block_spans(blocks.queries, blocks.keys)[1], *strides, *numbers,
        B, H, G, parts, **widths, BM=blocks.queries, BN=blocks.keys,
        DW=columns_too,
        num_warps=blocks.warps, num_stages=blocks.stages,
    )  # fmt: skip
    dk, dv = (x[0] if parts == 1 else x.sum(0).to(q.dtype) for x in (dk, dv))
    return (
        dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2),
        dw.sum(1) if columns_too else None,
    )  # fmt: skip


def parts_of_group(group: int, programs: int, device: torch.device) -> int:
    """Into how many parts the heads that share a key head are cut, each a program of its own.

    As few as keep the card busy, since every part beyond the first writes dk and dv once more:
    with long rows or many key heads, one.
    """
    if device.type != "cuda":
        return 1
    busy = 2 * torch.cuda.get_device_properties(device).multi_processor_count
    return next(
        n for n in range(1, group + 1) if group % n == 0 and (programs * n >= busy or n == group)
    )
