"""LoRRA attention: attention with low-rank residual queries, keys and values, and output rank r.

With d = D / H, A_h the rows of a_o that belong to head h, and U_h = (source + c_v b_v)_h A_h::

    q = rope(x + t b_q)    k = rope(source + c_k b_k)    out = sum_h softmax(q_h k_h^T / sqrt d) U_h

The output factor a_o is folded into the values. So the heads add up in registers, and a query
writes r numbers, not D.

Cost for N visible pairs of query and key:

    forward     2 N (D + H r) operations, after 2 (T + 2 S) D r + 2 S H r^2 for keys and values;
                moves x, source, t, c_k, c_v and out once, k and U twice: T (D + 2 r) +
                S (3 D + 2 H r + 2 r) numbers, and 4 H T bytes of lse
    backward    2 N (2 D + H r) operations for queries, 2 N (2 D + 2 H r) for keys, and about
                8 (T + S) D r around them; moves x, dx, the rotated q (twice), k (three times), dk
                (twice), U and dU, and the outputs of the heads once: about T (5 D + H r + 3 r) +
                S (8 D + 5 H r) numbers

The inputs, lse and the output of each head, 4 H r bytes a query, are saved for the backward.
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
    dot,
    load_tile,
    padded_width,
    round_to,
    store_tile,
    with_dense_rows,
)
from wings.kernels.tuning import Kind, blocks_for
from wings.kernels.visits import visits

from .backward import LorraInputs, backward
from .rope import batch_stride, load_head, rope_rows, rope_tile
from .validation import validate
from .values import folded_values

# Enough programs to fill a large GPU about twice. Beyond that, a program computes several heads.
TARGET_PROGRAMS = 528


@triton.jit
def attend_block(
    b_out: tl.tensor, b_total: tl.tensor, b_max: tl.tensor,
    b_q: tl.tensor, b_first: tl.tensor, b_end: tl.tensor, start: tl.tensor, factor: tl.tensor,
    p_k: tl.tensor, p_u: tl.tensor, width: tl.tensor, S: tl.tensor,
    HALF: tl.constexpr, HB: tl.constexpr, RANK: tl.constexpr, RB: tl.constexpr, BN: tl.constexpr,
    MASKED: tl.constexpr,
) -> tuple:  # fmt: skip
    """Adds one block of keys to the output of one head and its sum of weights."""
    b_k = load_head(p_k, start, width, S, BN, HALF, HB, MASKED)
    b_s = block_scores(b_q, b_k, b_first, b_end, start, BN, MASKED)
    b_p, b_shrink, b_total, b_new = online_softmax(b_s, b_total, b_max, factor, MASKED)
    b_u = load_tile(p_u, start, RANK, S, BN, RANK, RB, MASKED)
    # Tensor cores take both factors in one dtype. `b_total` keeps the weights in fp32.
    b_out = dot(round_to(b_p, b_u.dtype), b_u, b_out * b_shrink[:, None])
    return b_out, b_total, b_new


# T and S change from batch to batch; specialised on, they would compile the kernel several times.
@triton.jit(do_not_specialize=["T", "S", "heads_per_program"])
def forward_kernel(
    p_x: tl.tensor, p_t: tl.tensor, p_b: tl.tensor, p_k: tl.tensor, p_u: tl.tensor,
    p_cos: tl.tensor, p_sin: tl.tensor, p_first: tl.tensor, p_end: tl.tensor, p_spans: tl.tensor,
    p_out: tl.tensor, p_lse: tl.tensor, p_heads: tl.tensor,
    stride_xb: tl.tensor, stride_x: tl.tensor, stride_tb: tl.tensor, stride_t: tl.tensor,
    stride_rope: tl.tensor, stride_range: tl.tensor, stride_spans: tl.tensor,
    T: tl.tensor, S: tl.tensor, heads: tl.tensor, heads_per_program: tl.tensor, factor: tl.tensor,
    HALF: tl.constexpr, HB: tl.constexpr, RANK: tl.constexpr, RB: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, KEEPS_HEADS: tl.constexpr,
) -> None:  # fmt: skip
    """One program computes a block of queries for up to `heads_per_program` heads."""
    # Under causal ranges the last queries see the most keys. The longest programs start first, so
    # that none of them is left alone at the end.
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    start, group = block * BM, tl.program_id(1)
    batch, batches = tl.program_id(2).to(tl.int64), tl.num_programs(2).to(tl.int64)
    width = heads * 2 * HALF
    o_query = start + tl.arange(0, BM)
    m_query = o_query < T
    p_x += batch * stride_xb
    p_cos += batch * stride_rope
    p_sin += batch * stride_rope
    b_t = load_tile(p_t + batch * stride_tb, start, stride_t, T, BM, RANK, RB, True)
    # Queries past the last one get an empty range. Nothing is stored for them.
    b_first = tl.load(p_first + batch * stride_range + o_query, mask=m_query, other=0)
    b_end = tl.load(p_end + batch * stride_range + o_query, mask=m_query, other=0)
    p_spans += batch * stride_spans + block * 4
    low, full_low, full_high, high = load_spans(p_spans)

    # Heads of one program add up in registers, which saves partial sums in memory.
    b_sum = tl.zeros([BM, RB], tl.float32)
    first_head = group * heads_per_program
    for head in range(first_head, tl.minimum(first_head + heads_per_program, heads)):
        column = head * 2 * HALF
        b_q = rope_tile(
            p_x + column, b_t, p_b + column, p_cos, p_sin,
            start, stride_x, T, width, BM, HALF, HB, RANK, RB,
        )  # fmt: skip
        p_hk = p_k + batch * S * width + column
        p_hu = p_u + (head * batches + batch) * S * RANK
        b_out = tl.zeros([BM, RB], tl.float32)
        b_total = tl.zeros([BM], tl.float32)
        b_max = tl.full([BM], float("-inf"), tl.float32)
        for i in range(0, full_low - low + high - full_high):
            at = partial_block(i, low, full_low, full_high) * BN
            b_out, b_total, b_max = attend_block(
                b_out, b_total, b_max, b_q, b_first, b_end, at, factor, p_hk, p_hu, width, S,
                HALF, HB, RANK, RB, BN, True,
            )  # fmt: skip
        for i in range(full_low, full_high):
            b_out, b_total, b_max = attend_block(
                b_out, b_total, b_max, b_q, b_first, b_end, i * BN, factor, p_hk, p_hu, width, S,
                HALF, HB, RANK, RB, BN, False,
            )  # fmt: skip
        m_blind = b_total == 0.0
        b_total = tl.where(m_blind, 1.0, b_total)
        b_out = b_out / b_total[:, None]
        b_sum += b_out
        if KEEPS_HEADS:
            p_own = p_heads + (batch * heads + head) * T * RANK
            store_tile(b_out, p_own, start, RANK, T, BM, RANK, RB)
        # Blind queries get lse = +inf, so that the backward recomputes their weights as 0.
        b_lse = tl.where(m_blind, float("inf"), b_max + tl.math.log2(b_total))
        tl.store(p_lse + (batch * heads + head) * T + o_query, b_lse, mask=m_query)
    store_tile(b_sum, p_out + (group * batches + batch) * T * RANK, start, RANK, T, BM, RANK, RB)


def forward(saved: LorraInputs, keeps_heads: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Launches the forward kernel.

    Returns:
        Output `[B, T, r]`, the log2 of the sum of exponentials `[B, H, T]` in fp32, and with
        `keeps_heads` the output of each head, `[B, H, T, r]` in fp32, else an empty tensor.
    """
    x, t, source, heads = saved.x, saved.t, saved.source, saved.heads
    first, end, spans = saved.ranges[:3]
    batch, count, width = x.shape
    rank, keys = t.shape[-1], source.shape[1]
    lse = torch.empty(batch, heads, count, dtype=torch.float32, device=x.device)
    k = rope_rows(source, saved.c_k, saved.b_k, saved.cos_k, saved.sin_k, heads)
    u = folded_values(source, saved.c_v, saved.b_v, saved.a_o, heads)
    size = (batch, heads, count, rank) if keeps_heads else (0,)
    of_heads = torch.empty(size, dtype=torch.float32, device=x.device)
    half = width // heads // 2
    blocks = blocks_for("lorra_attention", max(2 * half, rank), x.dtype, x.device)
    groups, heads_per_program = group_heads(heads, triton.cdiv(count, blocks.queries) * batch)
    # Partial sums of several groups stay in fp32 and are rounded once, after they are added.
    out = torch.empty(
        groups, batch, count, rank,
        dtype=x.dtype if groups == 1 else torch.float32, device=x.device,
    )  # fmt: skip
    with torch.cuda.device_of(x):
        forward_kernel[triton.cdiv(count, blocks.queries), groups, batch](
            x, t, saved.b_q, k, u, saved.cos_q, saved.sin_q, first, end, spans, out, lse, of_heads,
            x.stride(0), x.stride(1), t.stride(0), t.stride(1), batch_stride(saved.cos_q),
            batch_stride(first), batch_stride(spans), count, keys, heads, heads_per_program,
            LOG2_E * (2 * half) ** -0.5,
            HALF=half, HB=padded_width(half), RANK=rank, RB=padded_width(rank), BM=blocks.queries,
            BN=blocks.keys, KEEPS_HEADS=keeps_heads,
            num_warps=blocks.warps, num_stages=blocks.stages,
        )  # fmt: skip
    return out[0] if groups == 1 else out.sum(0).to(x.dtype), lse, of_heads


def group_heads(heads: int, blocks: int) -> tuple[int, int]:
    """Number of groups and heads per group. Each group writes a partial sum `[B, T, r]` in fp32."""
    heads_per_program = max(1, min(heads, heads * blocks // TARGET_PROGRAMS))
    groups = triton.cdiv(heads, heads_per_program)
    return groups, triton.cdiv(heads, groups)


@torch.library.custom_op("wings::lorra_attention", mutates_args=())
def operator(
    tensors: list[Tensor], ranges: list[Tensor], heads: int, keeps_heads: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """`forward` of the tensors of `lorra_attention`, cos and sin apart; `ranges`: see `visits`."""
    return forward(LorraInputs(heads, ranges, *tensors), keeps_heads)


@operator.register_fake
def _(
    tensors: list[Tensor], ranges: list[Tensor], heads: int, keeps_heads: bool
) -> tuple[Tensor, Tensor, Tensor]:
    x, (batch, count, rank) = tensors[0], tensors[1].shape
    of_heads = x.new_empty((batch, heads, count, rank) if keeps_heads else 0, dtype=torch.float32)
    lse = x.new_empty(batch, heads, count, dtype=torch.float32)
    return x.new_empty(batch, count, rank), lse, of_heads


@torch.library.custom_op("wings::lorra_attention_backward", mutates_args=())
def backward_operator(
    tensors: list[Tensor], ranges: list[Tensor], lse: Tensor, of_heads: Tensor, d_out: Tensor,
    heads: int,
) -> list[Tensor]:  # fmt: skip
    """Gradients of the first nine tensors."""
    return list(backward(LorraInputs(heads, ranges, *tensors), lse, of_heads, d_out))


@backward_operator.register_fake
def _(tensors: list[Tensor], *_: object) -> list[Tensor]:
    return [tensor.new_empty(tensor.shape) for tensor in tensors[:9]]


def save(ctx: OperatorContext, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    """Saves the inputs, lse and the heads' outputs; the backward recomputes keys and values."""
    tensors, ranges, heads, _ = inputs
    ctx.save_for_backward(*tensors, *output[1:], *ranges)
    ctx.numbers = (len(tensors), heads)
    # lse and the heads' outputs have no gradient; zeros in its place would be large.
    ctx.set_materialize_grads(False)


def gradients(
    ctx: OperatorContext, d_out: Tensor | None, *_: Tensor | None
) -> tuple[list[Tensor | None], list[None], None, None]:
    """The backward of `operator`; differentiable once."""
    count, heads = ctx.numbers
    saved = list(ctx.saved_tensors)
    if d_out is None:
        return [None] * count, [None] * (len(saved) - count - 2), None, None
    tensors, (lse, of_heads), ranges = saved[:count], saved[count : count + 2], saved[count + 2 :]
    # Gradients have the dtype of the inputs, also if backward is called under autocast.
    with torch.autocast(d_out.device.type, enabled=False):
        found = backward_operator(tensors, ranges, lse, of_heads, d_out, heads)
    return [*found, *[None] * (count - len(found))], [None] * len(ranges), None, None


operator.register_autograd(gradients, setup_context=save)


def lorra_attention(
    x: Tensor,
    t: Tensor,
    source: Tensor,
    c_k: Tensor,
    c_v: Tensor,
    b_q: Tensor,
    b_k: Tensor,
    b_v: Tensor,
    a_o: Tensor,
    heads: int,
    rope_q: tuple[Tensor, Tensor],
    rope_k: tuple[Tensor, Tensor],
    key_ranges: KeyRanges,
) -> Tensor:
    r"""Attention of one learner, up to its output factor of rank r::

        Q = x + t b_q     K = source + c_k b_k     V = source + c_v b_v
        out = softmax(rope(Q) rope(K)^T / sqrt(d) within key_ranges, per head) V a_o

    `rope` rotates the halves of a head: `(x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin)`.

    Args:
        x: `[B, T, D]` in fp16, bf16 or fp32; all tensors but cos and sin have its dtype.
        t: `[B, T, r]`, x times the first query factor; r up to 128.
        source: `[B, S, D]`.
        c_k, c_v: `[B, S, r]`, source times the first key and value factors.
        b_q, b_k, b_v: `[r, D]`.
        a_o: `[D, r]`.
        heads: H; d = D / H must be even and from 16 to 256.
        rope_q: cos and sin at the positions of the queries, `[B or 1, T, d / 2]` each, in fp32.
        rope_k: cos and sin at the positions of the keys, `[B or 1, S, d / 2]` each.
        key_ranges: which keys each query sees.

    Returns:
        `[B, T, r]` in x's dtype; exact zeros for queries that see no key. Deterministic, and
        differentiable once in the first nine tensors.

    Raises:
        ValueError: an argument does not fit; raised before any launch.
    """
    sequences = {"x": x, "t": t, "source": source, "c_k": c_k, "c_v": c_v}
    (cos_q, sin_q), (cos_k, sin_k) = rope_q, rope_k
    tables = {
        "b_q": b_q, "b_k": b_k, "b_v": b_v, "a_o": a_o,
        "cos_q": cos_q, "sin_q": sin_q, "cos_k": cos_k, "sin_k": sin_k,
    }  # fmt: skip
    validate(sequences | tables, heads, key_ranges)
    tensors = [with_dense_rows(tensor) for tensor in sequences.values()]
    tensors += [tensor.contiguous() for tensor in tables.values()]
    # The matrix products around the kernels keep the dtype of x, also under autocast.
    with torch.autocast(x.device.type, enabled=False):
        if not (x.shape[0] and x.shape[1] and source.shape[1]):
            # Zeros that depend on the arguments, so that backward gives them gradients of zero.
            zero = sum((one[..., :0].sum() for one in tensors[1:9]), x[..., :0].sum())
            return zero.to(x.dtype).expand(t.shape).contiguous()
        kind = Kind(max(x.shape[-1] // heads, t.shape[-1]), x.dtype, x.device)
        needs_grad = torch.is_grad_enabled() and any(one.requires_grad for one in tensors[:9])
        ranges = visits(key_ranges, "lorra_attention", kind, needs_grad, heads * x.shape[0])
        return operator(tensors, ranges, heads, needs_grad)[0]
