"""Routed attention of one query a row: a step of decoding.

The heads of a group read their keys and values once. One kernel works on pieces of the keys of a
group, as a single query a head would leave most of a GPU idle. A second kernel joins the pieces,
and averages the columns over heads.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wings.kernels.decode_splits import count_splits, load_splits
from wings.kernels.softmax import online_softmax
from wings.kernels.tiles import LOG2_E, dot, load_tile, padded_width, round_to, with_dense_rows
from wings.kernels.tuning import blocks_for

from .validation import validate_decode


@triton.jit(do_not_specialize=["S", "stride_mask"])
def split_kernel(
    p_q: tl.tensor, p_k: tl.tensor, p_v: tl.tensor, p_w: tl.tensor, p_mask: tl.tensor,
    p_stats: tl.tensor, p_outs: tl.tensor, p_sums: tl.tensor,
    stride_qb: tl.tensor, stride_qh: tl.tensor,
    stride_kb: tl.tensor, stride_kg: tl.tensor, stride_ks: tl.tensor,
    stride_vb: tl.tensor, stride_vg: tl.tensor, stride_vs: tl.tensor,
    stride_wb: tl.tensor, stride_ws: tl.tensor, stride_mask: tl.tensor,
    S: tl.tensor, factor: tl.tensor,
    GROUP: tl.constexpr, BM: tl.constexpr, D: tl.constexpr, E: tl.constexpr, C: tl.constexpr,
    BD: tl.constexpr, BE: tl.constexpr, BC: tl.constexpr, BN: tl.constexpr,
    HAS_MASK: tl.constexpr,
) -> None:  # fmt: skip
    """One program weighs a piece of the keys for the heads of one group."""
    split, group = tl.program_id(0), tl.program_id(1).to(tl.int64)
    batch, splits = tl.program_id(2).to(tl.int64), tl.num_programs(0)
    b_q = load_tile(
        p_q + batch * stride_qb + group * GROUP * stride_qh, 0, stride_qh, GROUP, BM, D, BD, True
    )
    p_k += batch * stride_kb + group * stride_kg
    p_v += batch * stride_vb + group * stride_vg
    p_w += batch * stride_wb
    o_key = tl.arange(0, BN)
    o_d, o_e, o_c = tl.arange(0, BD), tl.arange(0, BE), tl.arange(0, BC)
    b_out = tl.zeros([BM, BE], tl.float32)
    b_sums = tl.zeros([BM, BC], tl.float32)
    b_total = tl.zeros([BM], tl.float32)
    b_max = tl.full([BM], float("-inf"), tl.float32)
    for start in range(split * BN, S, tl.num_programs(0) * BN):
        m_key = start + o_key < S
        if HAS_MASK:
            p_key = p_mask + batch * stride_mask + start + o_key
            m_key = m_key & (tl.load(p_key, mask=m_key, other=0) != 0)
        # Keys that no query sees are not read: of a static cache, all that is not filled yet.
        at = tl.cast(start, tl.int64)
        p_tile = p_k + at * stride_ks + (o_key[:, None] * stride_ks + o_d[None, :])
        b_k = tl.load(p_tile, mask=m_key[:, None] & (o_d < D)[None, :], other=0.0)
        b_s = tl.where(m_key[None, :], dot(b_q, tl.trans(b_k)), float("-inf"))
        b_p, b_shrink, b_total, b_max = online_softmax(b_s, b_total, b_max, factor, True)
        p_tile = p_v + at * stride_vs + (o_key[:, None] * stride_vs + o_e[None, :])
        b_v = tl.load(p_tile, mask=m_key[:, None] & (o_e < E)[None, :], other=0.0)
        p_tile = p_w + at * stride_ws + (o_key[:, None] * stride_ws + o_c[None, :])
        b_w = tl.load(p_tile, mask=m_key[:, None] & (o_c < C)[None, :], other=0.0)
        b_p = round_to(b_p, b_v.dtype)
        b_out = dot(b_p, b_v, b_out * b_shrink[:, None])
        b_sums = dot(b_p, round_to(b_w, b_v.dtype), b_sums * b_shrink[:, None])

    o_head = tl.arange(0, BM)
    m_head = (o_head < GROUP)[:, None]
    b_piece = (batch * tl.num_programs(1) * GROUP + group * GROUP + o_head) * splits + split
    tl.store(p_stats + b_piece * 2, b_max, mask=o_head < GROUP)
    tl.store(p_stats + b_piece * 2 + 1, b_total, mask=o_head < GROUP)
    p_outs += b_piece[:, None] * E + o_e[None, :]
    tl.store(p_outs, b_out, mask=m_head & (o_e < E)[None, :])
    p_sums += b_piece[:, None] * C + o_c[None, :]
    tl.store(p_sums, b_sums, mask=m_head & (o_c < C)[None, :])


@triton.jit(do_not_specialize=["splits"])
def join_kernel(
    p_stats: tl.tensor, p_outs: tl.tensor, p_sums: tl.tensor, p_out: tl.tensor, p_mean: tl.tensor,
    splits: tl.tensor,
    HEADS: tl.constexpr, HEADS_B: tl.constexpr, E: tl.constexpr, BE: tl.constexpr,
    C: tl.constexpr, SPLITS: tl.constexpr,
) -> None:  # fmt: skip
    """One program joins the pieces of a head; the last one averages the columns over heads."""
    head, batch = tl.program_id(0), tl.program_id(1).to(tl.int64)
    first = batch * HEADS * splits
    o_split = tl.arange(0, SPLITS)
    if head < HEADS:
        b_own = load_splits(p_stats + (first + head * splits) * 2, splits, 1, 1, SPLITS)
        b_own = tl.reshape(b_own, (SPLITS,))
        o_e = tl.arange(0, BE)
        p_tile = p_outs + (first + head * splits + o_split[:, None]) * E + o_e[None, :]
        m_tile = (o_split < splits)[:, None] & (o_e < E)[None, :]
        b_out = tl.sum(b_own[:, None] * tl.load(p_tile, mask=m_tile, other=0.0), 0)
        b_out = round_to(b_out, p_out.dtype.element_ty)
        tl.store(p_out + (batch * HEADS + head) * E + o_e, b_out, mask=o_e < E)
    else:
        b_all = load_splits(p_stats + first * 2, splits, HEADS, HEADS_B, SPLITS)
        o_head = tl.arange(0, HEADS_B)
        m_piece = (o_head < HEADS)[:, None] & (o_split < splits)[None, :]
        p_piece = p_sums + (first + o_head[:, None] * splits + o_split[None, :]) * C
        for column in range(C):
            b_sums = tl.load(p_piece + column, mask=m_piece, other=0.0)
            mean = tl.sum(tl.sum(b_all * b_sums, 1), 0) / HEADS
            tl.store(p_mean + batch * C + column, mean)


def launch(
    q: Tensor, k: Tensor, v: Tensor, columns: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """`routed_attention` of one query a row. Not differentiable; deterministic.

    One operator of torch's library, so that a compiled step stays one graph.

    Args:
        q: `[B, H, 1, d]`, fp16, bf16 or fp32, d up to 256.
        k: `[B, G, S, d]` in q's dtype; S may be the capacity of a static cache.
        v: `[B, G, S, e]` in q's dtype, e up to 256.
        columns: `[B, S, C]`, any float dtype, C from 1 to 64; rounded to q's dtype.
        mask: `[B or 1, S]` bool, the keys that a query sees; None for all. Others are not read.
        scale: factor of q k^T, greater than 0.

    Returns:
        The output `[B, 1, H, e]` in q's dtype, and the sums `[B, 1, C]` in fp32, averaged over
        heads. Both are zero for a query without a key.

    Raises:
        ValueError: shapes, dtypes, devices or the scale do not fit.
    """
    validate_decode(q, k, v, columns, mask, scale)
    (B, H, _, D), (_, G, S, E), C = q.shape, v.shape, columns.shape[-1]
    out = torch.empty(B, 1, H, E, dtype=q.dtype, device=q.device)
    mean = torch.empty(B, 1, C, dtype=torch.float32, device=q.device)
    if not (B and S):
        return out.zero_(), mean.zero_()
    q, k, v, columns = (with_dense_rows(x) for x in (q, k, v, columns))
    mask = None if mask is None else with_dense_rows(mask)
    BD, BE = padded_width(D), padded_width(E)
    blocks = blocks_for("routed_decode", max(BD, BE), q.dtype, q.device)
    splits = count_splits(S, blocks.keys, B * G)
    stats, outs, sums = (
        torch.empty(B, H, splits, width, dtype=torch.float32, device=q.device)
        for width in (2, E, C)
    )
    options = {"num_warps": blocks.warps, "num_stages": blocks.stages}
    stride_mask = 0 if mask is None or mask.shape[0] == 1 else mask.stride(0)
    with torch.cuda.device_of(q):
        split_kernel[splits, G, B](
            q, k, v, columns, q if mask is None else mask.view(torch.uint8),
            stats, outs, sums,
            *q.stride()[:2], *k.stride()[:3], *v.stride()[:3], *columns.stride()[:2],
            stride_mask, S, scale * LOG2_E,
            GROUP=H // G, BM=padded_width(H // G), D=D, E=E, C=C, BD=BD, BE=BE,
            BC=padded_width(C), BN=blocks.keys, HAS_MASK=mask is not None, **options,
        )  # fmt: skip
        join_kernel[H + 1, B](
            stats, outs, sums, out, mean, splits,
            HEADS=H, HEADS_B=triton.next_power_of_2(H), E=E, BE=BE, C=C,
            SPLITS=triton.next_power_of_2(splits), **options,
        )  # fmt: skip
    return out, mean


routed_decode = torch.library.custom_op("wings::routed_decode", launch, mutates_args=())


@routed_decode.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, columns: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    batch, heads = q.shape[:2]
    sums = columns.new_empty(batch, 1, columns.shape[-1], dtype=torch.float32)
    return q.new_empty(batch, 1, heads, v.shape[-1]), sums
