"""Routed attention: softmax attention that also sums columns of the keys, averaged over heads.

The router needs the attention weight that falls on text and on each image. Indicator columns
per key give it: one more product with the weights, and no T x S matrix is stored.

Cost for N visible pairs of query and key per row and head, widths d and e, and c = 16 (columns are
padded to 16):

    forward     2 N (d + e + c) operations; reads q, k, v and writes out once
    backward    2 N (2 d + e + c) for dq, 2 N (2 d + 2 e + 2 c) for dk, dv and dcolumns;
                reads q, k, v, d_out twice and out once, writes dq, dk, dv

Both backward passes recompute the scores and their gradient, which avoids atomic sums. The columns
add c / (d + e) to the forward and 3 c / (4 d + 3 e) to the backward: 6% and 5% at d = e = 128. In
bf16 with 32 heads, T = S = 2,048, causal, B = 1, the forward takes 37 GFLOP and 67 MB, the backward
127 GFLOP and 185 MB. So both are bound by arithmetic.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wings.kernels.key_ranges import KeyRanges
from wings.kernels.operators import OperatorContext
from wings.kernels.softmax import block_scores, load_spans, online_softmax, partial_block
from wings.kernels.tiles import (
    LOG2_E,
    allocate_descriptors,
    dot,
    is_aligned,
    load_tile,
    pad_columns,
    padded_width,
    round_to,
    store_tile,
    with_dense_rows,
)
from wings.kernels.tuning import Kind, blocks_for, loads_by_descriptors
from wings.kernels.visits import visits

from .backward import backward
from .validation import validate


@triton.jit
def attend_block(
    b_out: tl.tensor, b_sums: tl.tensor, b_total: tl.tensor, b_max: tl.tensor,
    b_q: tl.tensor, b_first: tl.tensor, b_end: tl.tensor, start: tl.tensor, factor: tl.tensor,
    p_k: tl.tensor, p_v: tl.tensor, p_w: tl.tensor, stride_ks: tl.tensor, stride_vs: tl.tensor,
    S: tl.tensor, D: tl.constexpr, E: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr,
    BC: tl.constexpr, BN: tl.constexpr, MASKED: tl.constexpr, DESCRIPTORS: tl.constexpr,
) -> tuple:  # fmt: skip
    """Adds one block of keys to the output, the sums of columns and the sum of weights."""
    if DESCRIPTORS:
        b_k = p_k.load([start, 0])
    else:
        b_k = load_tile(p_k, start, stride_ks, S, BN, D, BD, MASKED)
    b_s = block_scores(b_q, b_k, b_first, b_end, start, BN, MASKED)
    b_p, b_shrink, b_total, b_new = online_softmax(b_s, b_total, b_max, factor, MASKED)
    if DESCRIPTORS:
        b_v = p_v.load([start, 0])
    else:
        b_v = load_tile(p_v, start, stride_vs, S, BN, E, BE, MASKED)
    b_w = load_tile(p_w, start, BC, S, BN, BC, BC, MASKED)
    # Tensor cores take both factors in one dtype. `b_total` keeps the weights in fp32.
    b_p = round_to(b_p, b_v.dtype)
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
    per_batch: tl.tensor, factor: tl.tensor, T: tl.tensor, S: tl.tensor, H: tl.tensor,
    GROUP: tl.constexpr, D: tl.constexpr, E: tl.constexpr, C: tl.constexpr, BD: tl.constexpr,
    BE: tl.constexpr, BC: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
) -> None:  # fmt: skip
    """One program computes a block of queries of one head."""
    count = tl.cdiv(T, BM)
    # Under causal ranges the last queries see the most keys. The longest programs start first, so
    # that none of them is left alone at the end.
    block = count - 1 - tl.program_id(0) % count
    batch = (tl.program_id(0) // count // H).to(tl.int64)
    head = (tl.program_id(0) // count % H).to(tl.int64)
    start = block * BM
    o_query = start + tl.arange(0, BM)
    p_q += batch * stride_qb + head * stride_qh
    b_q = load_tile(p_q, start, stride_qt, T, BM, D, BD, True)
    p_k += batch * stride_kb + head // GROUP * stride_kg
    p_v += batch * stride_vb + head // GROUP * stride_vg
    p_w += batch * S * BC
    if DESCRIPTORS:
        # Rows past the last one are read as zeros.
        keys = tl.make_tensor_descriptor(p_k, [S, D], [stride_ks, 1], [BN, BD])
        values = tl.make_tensor_descriptor(p_v, [S, E], [stride_vs, 1], [BN, BE])
    else:
        keys, values = p_k, p_v
    # Queries past the last one get an empty range. Nothing is stored for them.
    b_first = tl.load(p_first + batch * per_batch * T + o_query, mask=o_query < T, other=0)
    b_end = tl.load(p_end + batch * per_batch * T + o_query, mask=o_query < T, other=0)
    p_spans += (batch * per_batch * count + block) * 4
    low, full_low, full_high, high = load_spans(p_spans)

    b_out = tl.zeros([BM, BE], tl.float32)
    b_sums = tl.zeros([BM, BC], tl.float32)
    b_total = tl.zeros([BM], tl.float32)
    b_max = tl.full([BM], float("-inf"), tl.float32)
    for i in range(0, full_low - low + high - full_high):
        at = partial_block(i, low, full_low, full_high) * BN
        b_out, b_sums, b_total, b_max = attend_block(
            b_out, b_sums, b_total, b_max, b_q, b_first, b_end, at, factor, keys, values, p_w,
            stride_ks, stride_vs, S, D, E, BD, BE, BC, BN, True, DESCRIPTORS,
        )  # fmt: skip
    for i in range(full_low, full_high):
        b_out, b_sums, b_total, b_max = attend_block(
            b_out, b_sums, b_total, b_max, b_q, b_first, b_end, i * BN, factor, keys, values, p_w,
            stride_ks, stride_vs, S, D, E, BD, BE, BC, BN, False, DESCRIPTORS,
        )  # fmt: skip

    # A blind query has no weights: its output is 0. Its lse is +inf, so that the backward, which
    # recomputes weights as exp2(score - lse), gets 0 too.
    m_blind = b_total == 0
    b_total = tl.where(m_blind, 1.0, b_total)
    b_lse = tl.where(m_blind, float("inf"), b_max + tl.math.log2(b_total))
    p_out += batch * T * H * E + head * E
    store_tile(b_out / b_total[:, None], p_out, start, H * E, T, BM, E, BE)
    first_query = (batch * H + head) * T
    tl.store(p_lse + first_query + o_query, b_lse, mask=o_query < T)
    store_tile(b_sums / b_total[:, None], p_sums + first_query * C, start, C, T, BM, C, BC)


def forward(
    q: Tensor, k: Tensor, v: Tensor, columns: Tensor, ranges: list[Tensor], scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Launches the forward kernel, with the arguments of `operator`, already validated.

    Returns:
        The output `[B, T, H, e]`; in fp32 the sums of each head `[B, H, T, C]`, and the log2 of the
        sum of exponentials `[B, H, T]`.
    """
    (B, H, T, D), (_, G, S, E), C = q.shape, v.shape, columns.shape[-1]
    # The columns take the dtype of the weights, so that one tensor-core product sums them.
    w = pad_columns(columns, q.dtype)
    BD, BE = padded_width(D), padded_width(E)
    blocks = blocks_for("routed_attention", max(BD, BE), q.dtype, q.device)
    first, end, spans = ranges[:3]
    out = torch.empty(B, T, H, E, dtype=q.dtype, device=q.device)
    sums = torch.empty(B, H, T, C, dtype=torch.float32, device=q.device)
    lse = torch.empty(B, H, T, dtype=torch.float32, device=q.device)
    descriptors = (
        loads_by_descriptors(q.device) and (D, E) == (BD, BE) and all(map(is_aligned, (k, v)))
    )
    if descriptors:
        allocate_descriptors(q.device)
    forward_kernel[(triton.cdiv(T, blocks.queries) * B * H,)](
        q, k, v, w, out, sums, lse, first, end, spans,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
        int(first.shape[0] > 1), scale * LOG2_E, T, S, H,
        GROUP=H // G, D=D, E=E, C=C, BD=BD, BE=BE, BC=w.shape[-1],
        BM=blocks.queries, BN=blocks.keys, DESCRIPTORS=descriptors,
        num_warps=blocks.warps, num_stages=blocks.stages,
    )  # fmt: skip
    return out, sums, lse


@torch.library.custom_op("wings::routed_attention", mutates_args=())
def operator(
    q: Tensor, k: Tensor, v: Tensor, columns: Tensor, ranges: list[Tensor], scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The operation with `columns` in fp32: output, sums added over heads, and sums and lse a head.

    `ranges` are those of `visits`. The last two results are for the backward and have no gradient.
    """
    q, k, v = with_dense_rows(q), with_dense_rows(k), with_dense_rows(v)
    # Triton launches on the current device, which need not be that of the tensors.
    with torch.cuda.device_of(q):
        out, sums, lse = forward(q, k, v, columns, ranges, scale)
    return out, sums.sum(1), sums, lse


@operator.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, columns: Tensor, *_: object
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (B, H, T, _d), C = q.shape, columns.shape[-1]
    total, sums, lse = (
        q.new_empty(size, dtype=torch.float32) for size in ((B, T, C), (B, H, T, C), (B, H, T))
    )
    return q.new_empty(B, T, H, v.shape[-1]), total, sums, lse


@torch.library.custom_op("wings::routed_attention_backward", mutates_args=())
def backward_operator(
    q: Tensor, k: Tensor, v: Tensor, columns: Tensor, out: Tensor, sums: Tensor, lse: Tensor,
    d_out: Tensor, d_total: Tensor, ranges: list[Tensor], scale: float, columns_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k, v and columns; of columns an empty tensor if it is not wanted."""
    q, k, v = with_dense_rows(q), with_dense_rows(k), with_dense_rows(v)
    d_out = with_dense_rows(d_out)
    with torch.cuda.device_of(q):
        *found, d_columns = backward(
            q, k, v, columns, out, sums, lse, d_out, d_total, ranges, scale, columns_grad
        )
    dq, dk, dv = found
    return dq, dk, dv, columns.new_empty(0) if d_columns is None else d_columns


@backward_operator.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, columns: Tensor, *rest: object
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dq, dk, dv = (
        x.new_empty(*(x.shape[n] for n in (0, 2, 1, 3))).transpose(1, 2) for x in (q, k, v)
    )
    return dq, dk, dv, columns.new_empty(columns.shape if rest[-1] else 0)


def save(ctx: OperatorContext, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    """Saves for the backward the inputs and results of `operator`, which recomputes weights."""
    *tensors, ranges, scale = inputs
    out, _, sums, lse = output
    ctx.save_for_backward(*tensors, out, sums, lse, *ranges)
    ctx.numbers = (scale,)
    # Sums and lse of each head have no gradient; zeros in its place would be large.
    ctx.set_materialize_grads(False)


def gradients(
    ctx: OperatorContext, d_out: Tensor | None, d_total: Tensor | None, *_: Tensor | None
) -> tuple:
    """The backward of `operator`; differentiable once."""
    saved, (scale,), columns_grad = ctx.saved_tensors, ctx.numbers, ctx.needs_input_grad[3]
    ranges = list(saved[7:])
    columns, out = saved[3:5]
    d_out = torch.zeros_like(out) if d_out is None else d_out
    if d_total is None:
        d_total = out.new_zeros(*out.shape[:2], columns.shape[-1], dtype=torch.float32)
    found = backward_operator(*saved[:7], d_out, d_total, ranges, scale, columns_grad)
    return *found[:3], found[3] if columns_grad else None, [None] * len(ranges), None


operator.register_autograd(gradients, setup_context=save)


def routed_attention(
    q: Tensor, k: Tensor, v: Tensor, columns: Tensor, key_ranges: KeyRanges, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention output, and the attention-weighted sums of per-key columns, averaged over heads.

    P_h = softmax over the key range of each query of `scale * q_h k^T`, out_h = P_h v, sums = mean
    over heads of P_h columns. A query with an empty range gets zeros and adds nothing to the
    gradients. If T or S is 0, nothing is launched.

    Args:
        q: `[B, H, T, d]`, fp16, bf16 or fp32, d up to 256.
        k: `[B, G, S, d]` in q's dtype; query head h uses key head h // (H // G).
        v: `[B, G, S, e]` in q's dtype, e up to 256.
        columns: `[B, S, C]`, any float dtype, C from 1 to 64; rounded to q's dtype.
        key_ranges: which keys each query sees, for one row or for B rows.
        scale: factor of q k^T, greater than 0.

    Returns:
        The output `[B, T, H, e]` in q's dtype, dense, and the sums `[B, T, C]` in fp32.

    Raises:
        ValueError: shapes, dtypes, devices or the scale do not fit.
    """
    validate(q, k, v, columns, key_ranges, scale)
    B, H, T, D = q.shape
    if 0 in (B, T, k.shape[2]):
        # Zeros that depend on the arguments, so that backward gives them gradients of zero.
        zero = sum((x[..., :0].sum() for x in (k, v, columns)), q[..., :0].sum())
        out = zero.to(q.dtype).expand(B, T, H, v.shape[-1]).contiguous()
        return out, zero.float().expand(B, T, columns.shape[-1]).contiguous()
    # The mean over heads is split into two factors. A power of two near 1 / H is applied before the
    # kernel: it is exact, and keeps the gradients of the sums within the range of fp16.
    prescale = 0.5 ** (H - 1).bit_length()
    kind = Kind(max(padded_width(D), padded_width(v.shape[-1])), q.dtype, q.device)
    needs_grad = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, columns))
    ranges = visits(key_ranges, "routed_attention", kind, needs_grad)
    out, sums, *_ = operator(q, k, v, columns.float() * prescale, ranges, scale)
    return out, sums * (1 / (prescale * H))
