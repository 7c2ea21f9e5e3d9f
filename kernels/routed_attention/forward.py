"""Routed attention: softmax attention that also sums per-key columns, averaged over heads.

The columns are one more, narrow product with the weights, so no T x S matrix exists. What must be
done, with N visible pairs of query and key per row and head, widths d and e, and c = 16 columns as
padded: forward 2 N (d + e + c) operations, and q, k, v read and out written once; backward
2 N (2 d + e + c) for dq and 2 N (2 d + 2 e + 2 c) for the rest (the scores and their gradient are
made in both passes, the price of a sum without atomics), reading q, k, v, d_out twice and out once,
writing dq, dk, dv. The columns' share is c / (d + e) forward, 3 c / (4 d + 3 e) backward: 6% and 5%
at d = e = 128. In bf16 with 32 heads, T = S = 2,048, causal, B = 1: 37 GFLOP and 67 MB, then 127
GFLOP and 185 MB, so arithmetic bounds it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from wings.kernels.autograd_context import AutogradContext
from wings.kernels.key_ranges import KeyRanges
from wings.kernels.softmax import scores, weighed
from wings.kernels.tiles import LOG2_E, dense, dot, padded, padded_width, put, rounded, tile
from wings.kernels.tuning import blocks_for

from .backward import backward
from .validation import check


@triton.jit
def attend(
    b_out: tl.tensor, b_sums: tl.tensor, b_total: tl.tensor, b_max: tl.tensor,
    b_q: tl.tensor, b_first: tl.tensor, b_end: tl.tensor, start: tl.tensor, factor: tl.tensor,
    p_k: tl.tensor, p_v: tl.tensor, p_w: tl.tensor, stride_ks: tl.tensor, stride_vs: tl.tensor,
    S: tl.tensor, D: tl.constexpr, E: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr,
    BC: tl.constexpr, BN: tl.constexpr, MASKED: tl.constexpr,
) -> tuple:  # fmt: skip
    """One block of keys: the running maximum moves, what was summed before shrinks with it."""
    b_k = tile(p_k, start, stride_ks, S, BN, D, BD, MASKED)
    b_s = scores(b_q, b_k, b_first, b_end, start, BN, MASKED)
    b_p, b_shrink, b_total, b_new = weighed(b_s, b_total, b_max, factor, MASKED)
    b_v = tile(p_v, start, stride_vs, S, BN, E, BE, MASKED)
    b_w = tile(p_w, start, BC, S, BN, BC, BC, MASKED)
    b_p = rounded(b_p, b_v.dtype)
    b_out = dot(b_p, b_v, b_out * b_shrink[:, None])
    b_sums = dot(b_p, b_w, b_sums * b_shrink[:, None])
    return b_out, b_sums, b_total, b_new


@triton.jit
def forward_kernel(
    p_q: tl.tensor, p_k: tl.tensor, p_v: tl.tensor, p_w: tl.tensor,
    p_out: tl.tensor, p_sums: tl.tensor, p_lse: tl.tensor,
    p_first: tl.tensor, p_end: tl.tensor, p_spans: tl.tensor,
    stride_qb: tl.tensor, stride_qh: tl.tensor, stride_qt: tl.tensor,
    stride_kb: tl.tensor, stride_kg: tl.tensor, stride_ks: tl.tensor,
    stride_vb: tl.tensor, stride_vg: tl.tensor, stride_vs: tl.tensor,
    per_row: tl.tensor, factor: tl.tensor, T: tl.tensor, S: tl.tensor, H: tl.tensor,
    GROUP: tl.constexpr, D: tl.constexpr, E: tl.constexpr, C: tl.constexpr, BD: tl.constexpr,
    BE: tl.constexpr, BC: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
) -> None:  # fmt: skip
    """One program: a block of queries of one head."""
    count = tl.cdiv(T, BM)
    # Under causal ranges the last queries see most: what takes longest starts first.
    block = count - 1 - tl.program_id(0) % count
    head_row = tl.program_id(0) // count
    row, head = (head_row // H).to(tl.int64), (head_row % H).to(tl.int64)
    start = block * BM
    o_query = start + tl.arange(0, BM)
    b_q = tile(p_q + row * stride_qb + head * stride_qh, start, stride_qt, T, BM, D, BD, True)
    p_k += row * stride_kb + head // GROUP * stride_kg
    p_v += row * stride_vb + head // GROUP * stride_vg
    p_w += row * S * BC
    # Queries past the end see nothing.
    b_first = tl.load(p_first + row * per_row * T + o_query, mask=o_query < T, other=0)
    b_end = tl.load(p_end + row * per_row * T + o_query, mask=o_query < T, other=0)
    p_spans += (row * per_row * count + block) * 4
    low, whole_low = tl.load(p_spans), tl.load(p_spans + 1)
    whole_high, high = tl.load(p_spans + 2), tl.load(p_spans + 3)

    b_out = tl.zeros([BM, BE], tl.float32)
    b_sums = tl.zeros([BM, BC], tl.float32)
    b_total = tl.zeros([BM], tl.float32)
    b_max = tl.full([BM], float("-inf"), tl.float32)
    before = whole_low - low
    for i in range(0, before + high - whole_high):
        at = tl.where(i < before, low + i, whole_high + i - before) * BN
        b_out, b_sums, b_total, b_max = attend(
            b_out, b_sums, b_total, b_max, b_q, b_first, b_end, at, factor, p_k, p_v, p_w,
            stride_ks, stride_vs, S, D, E, BD, BE, BC, BN, True,
        )  # fmt: skip
    for i in range(whole_low, whole_high):
        b_out, b_sums, b_total, b_max = attend(
            b_out, b_sums, b_total, b_max, b_q, b_first, b_end, i * BN, factor, p_k, p_v, p_w,
            stride_ks, stride_vs, S, D, E, BD, BE, BC, BN, False,
        )  # fmt: skip

    # Where nothing is seen all sums are 0, and weights made of +inf, exp2(score - lse), are 0 too.
    m_blind = b_total == 0
    b_total = tl.where(m_blind, 1.0, b_total)
    b_lse = tl.where(m_blind, float("inf"), b_max + tl.math.log2(b_total))
    tl.store(p_lse + head_row.to(tl.int64) * T + o_query, b_lse, mask=o_query < T)
    put(b_out / b_total[:, None], p_out + row * T * H * E + head * E, start, H * E, T, BM, E, BE)
    put(b_sums / b_total[:, None], p_sums + head_row.to(tl.int64) * T * C, start, C, T, BM, C, BC)


def forward(
    q: Tensor, k: Tensor, v: Tensor, columns: Tensor, key_ranges: KeyRanges, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Launches the forward kernel; arguments as of `routed_attention`, checked and dense.

    Returns:
        The output `[B, T, H, e]`, each head's sums `[B, H, T, C]` and the logarithms, to base 2, of
        the sums of exponentials `[B, H, T]`, both in fp32.
    """
    (B, H, T, D), (_, G, S, E), C = q.shape, v.shape, columns.shape[-1]
    w = padded(columns, q.dtype)
    BD, BE = padded_width(D), padded_width(E)
    blocks = blocks_for("routed_attention", max(BD, BE), q.dtype, q.device)
    spans, _ = key_ranges.block_spans(blocks.queries, blocks.keys)
    first, end = key_ranges.first, key_ranges.end
    out = torch.empty(B, T, H, E, dtype=q.dtype, device=q.device)
    sums = torch.empty(B, H, T, C, dtype=torch.float32, device=q.device)
    lse = torch.empty(B, H, T, dtype=torch.float32, device=q.device)
    forward_kernel[(triton.cdiv(T, blocks.queries) * B * H,)](
        q, k, v, w, out, sums, lse, first, end, spans,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
        int(first.shape[0] > 1), scale * LOG2_E, T, S, H,
        GROUP=H // G, D=D, E=E, C=C, BD=BD, BE=BE, BC=w.shape[-1],
        BM=blocks.queries, BN=blocks.keys,
        num_warps=blocks.warps, num_stages=blocks.stages,
    )  # fmt: skip
    return out, sums, lse


class RoutedAttentionContext(AutogradContext):
    """Context of `RoutedAttention`."""

    key_ranges: KeyRanges
    scale: float


class RoutedAttention(torch.autograd.Function):
    """`(q, k, v, columns in fp32, key_ranges, scale)` -> the output and the sums over all heads."""

    @staticmethod
    def forward(
        ctx: RoutedAttentionContext,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        columns: Tensor,
        key_ranges: KeyRanges,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        q, k, v = dense(q), dense(k), dense(v)
        # Triton launches on the current device, which need not be that of the tensors.
        with torch.cuda.device_of(q):
            out, sums, lse = forward(q, k, v, columns, key_ranges, scale)
        ctx.save_for_backward(q, k, v, columns, out, sums, lse)
        ctx.key_ranges, ctx.scale = key_ranges, scale
        return out, sums.sum(1)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: RoutedAttentionContext, d_out: Tensor, d_sums: Tensor
    ) -> tuple[Tensor | None, ...]:
        q, k, v, columns, out, sums, lse = ctx.saved_tensors
        d_out, columns_too = dense(d_out), ctx.needs_input_grad[3]
        with torch.cuda.device_of(d_out):
            grads = backward(
                q,
                k,
                v,
                columns,
                out,
                sums,
                lse,
                d_out,
                d_sums,
                ctx.key_ranges,
                ctx.scale,
                columns_too,
            )
        return *grads, None, None


def routed_attention(
    q: Tensor, k: Tensor, v: Tensor, columns: Tensor, key_ranges: KeyRanges, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention output and head-averaged, attention-weighted sums of per-key columns.

    P_h = softmax over the run of each query of `scale * q_h k^T`, out_h = P_h v, sums = mean over
    heads of P_h columns. A query with an empty run gets zeros, and gives none of the gradients
    anything. Where T or S is 0 nothing is launched.

    Args:
        q: `[B, H, T, d]`, fp16, bf16 or fp32, d up to 256.
        k: `[B, G, S, d]` in q's dtype; query head h uses key head h // (H // G).
        v: `[B, G, S, e]` in q's dtype, e up to 256.
        columns: `[B, S, C]`, any float dtype, C from 1 to 64; rounded to q's dtype.
        key_ranges: which keys each query sees, of one row or of B.
        scale: factor of q k^T, above 0.

    Returns:
        The output `[B, T, H, e]` in q's dtype, dense, and the sums `[B, T, C]` in fp32.

    Raises:
        ValueError: shapes, dtypes, devices or a scale that do not fit.
    """
    check(q, k, v, columns, key_ranges, scale)
    B, H, T, _ = q.shape
    if 0 in (B, T, k.shape[2]):
        # Tied to the arguments, so that a backward reaches them, with gradients of zero.
        nothing = sum((x[..., :0].sum() for x in (k, v, columns)), q[..., :0].sum())
        out = nothing.to(q.dtype).expand(B, T, H, v.shape[-1]).contiguous()
        return out, nothing.float().expand(B, T, columns.shape[-1]).contiguous()
    # A power of two loses no digit of the columns, and near 1 / H it keeps what their gradient
    # adds to that of the weights within the range of fp16.
    share = 0.5 ** (H - 1).bit_length()
    out, sums = RoutedAttention.apply(q, k, v, columns.float() * share, key_ranges, scale)
    return out, sums * (1 / (share * H))
