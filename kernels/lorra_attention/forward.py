"""LoRRA attention: attention with low-rank residual queries, keys and values, down to rank r.

With d = D / H, A_h the rows of a_o that belong to head h, and U_h = (source + c_v b_v)_h A_h::

    q = rope(x + t b_q)    k = rope(source + c_k b_k)    out = sum_h softmax(q_h k_h^T / sqrt d) U_h

a_o is folded into the values, so that heads sum up and nothing as wide as D is written for queries.

What must be done, for N pairs of a query and a key that it sees: the forward takes 2 N (D + H r)
operations, and 2 (T + 2 S) D r + 2 S H r^2 before them; it moves x, source, their low-rank rows
and out once, k and U twice: T (D + 2 r) + S (3 D + 2 H r + 2 r) numbers, and 4 H T bytes of
log-sums. The backward takes 2 N (3 D + 2 H r) operations for queries, 2 N (2 D + 2 H r) for keys
and some 8 (T + S) D r around them; it moves x, dx, the turned q (twice), k (thrice), dk (twice), U
and dU: about T (5 D + 3 r) + S (8 D + 5 H r) numbers. Kept between are the inputs and log-sums.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from wings.kernels.autograd_context import AutogradContext
from wings.kernels.key_ranges import KeyRanges
from wings.kernels.softmax import scores, weighed
from wings.kernels.tiles import LOG2_E, dense, dot, padded_width, put, rounded, tile
from wings.kernels.tuning import blocks_for

from .backward import Saved, backward
from .rope import head_tile, row_stride, turned_rows, turned_tile
from .validation import refuse_misfits
from .values import lorra_values

# Programs that fill a large card about twice; more heads share one where there would be more.
PROGRAMS = 528


@triton.jit
def attend(
    b_out: tl.tensor, b_total: tl.tensor, b_max: tl.tensor,
    b_q: tl.tensor, b_first: tl.tensor, b_end: tl.tensor, start: tl.tensor, factor: tl.tensor,
    p_k: tl.tensor, p_u: tl.tensor, width: tl.tensor, S: tl.tensor,
    HALF: tl.constexpr, HB: tl.constexpr, RANK: tl.constexpr, RB: tl.constexpr, BN: tl.constexpr,
    MASKED: tl.constexpr,
) -> tuple:  # fmt: skip
    """One block of keys: the running maximum moves, what was summed before shrinks with it."""
    b_k = head_tile(p_k, start, width, S, BN, HALF, HB, MASKED)
    b_s = scores(b_q, b_k, b_first, b_end, start, BN, MASKED)
    b_p, b_shrink, b_total, b_new = weighed(b_s, b_total, b_max, factor, MASKED)
    b_u = tile(p_u, start, RANK, S, BN, RANK, RB, MASKED)
    b_out = dot(rounded(b_p, b_u.dtype), b_u, b_out * b_shrink[:, None])
    return b_out, b_total, b_new


@triton.jit(do_not_specialize=["T", "S", "together"])
def forward_kernel(
    p_x: tl.tensor, p_t: tl.tensor, p_b: tl.tensor, p_k: tl.tensor, p_u: tl.tensor,
    p_cos: tl.tensor, p_sin: tl.tensor, p_first: tl.tensor, p_end: tl.tensor, p_spans: tl.tensor,
    p_out: tl.tensor, p_lse: tl.tensor,
    stride_xb: tl.tensor, stride_x: tl.tensor, stride_tb: tl.tensor, stride_t: tl.tensor,
    stride_turn: tl.tensor, stride_run: tl.tensor, stride_spans: tl.tensor,
    T: tl.tensor, S: tl.tensor, heads: tl.tensor, together: tl.tensor, factor: tl.tensor,
    HALF: tl.constexpr, HB: tl.constexpr, RANK: tl.constexpr, RB: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
) -> None:  # fmt: skip
    """One program: a block of queries, `together` heads one after another."""
    # Under causal ranges the last queries see most: what takes longest starts first.
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    start, group = block * BM, tl.program_id(1)
    row, rows = tl.program_id(2).to(tl.int64), tl.num_programs(2).to(tl.int64)
    width = heads * 2 * HALF
    o_query = start + tl.arange(0, BM)
    m_query = o_query < T
    p_x += row * stride_xb
    p_cos += row * stride_turn
    p_sin += row * stride_turn
    b_t = tile(p_t + row * stride_tb, start, stride_t, T, BM, RANK, RB, True)
    # Queries past the end see nothing.
    b_first = tl.load(p_first + row * stride_run + o_query, mask=m_query, other=0)
    b_end = tl.load(p_end + row * stride_run + o_query, mask=m_query, other=0)
    p_spans += row * stride_spans + block * 4
    low, whole_low = tl.load(p_spans), tl.load(p_spans + 1)
    whole_high, high = tl.load(p_spans + 2), tl.load(p_spans + 3)
    before = whole_low - low

    b_sum = tl.zeros([BM, RB], tl.float32)
    for head in range(group * together, tl.minimum(group * together + together, heads)):
        column = head * 2 * HALF
        b_q = turned_tile(
            p_x + column, b_t, p_b + column, p_cos, p_sin,
            start, stride_x, T, width, BM, HALF, HB, RANK, RB,
        )  # fmt: skip
        p_hk = p_k + row * S * width + column
        p_hu = p_u + (head * rows + row) * S * RANK
        b_out = tl.zeros([BM, RB], tl.float32)
        b_total = tl.zeros([BM], tl.float32)
        b_max = tl.full([BM], float("-inf"), tl.float32)
        for i in range(0, before + high - whole_high):
            at = tl.where(i < before, low + i, whole_high + i - before) * BN
            b_out, b_total, b_max = attend(
                b_out, b_total, b_max, b_q, b_first, b_end, at, factor, p_hk, p_hu, width, S,
                HALF, HB, RANK, RB, BN, True,
            )  # fmt: skip
        for i in range(whole_low, whole_high):
            b_out, b_total, b_max = attend(
                b_out, b_total, b_max, b_q, b_first, b_end, i * BN, factor, p_hk, p_hu, width, S,
                HALF, HB, RANK, RB, BN, False,
            )  # fmt: skip
        m_blind = b_total == 0.0
        b_total = tl.where(m_blind, 1.0, b_total)
        b_sum += b_out / b_total[:, None]
        # The backward's weights are exp2(score - lse): with +inf they are 0 where nothing is seen.
        b_lse = tl.where(m_blind, float("inf"), b_max + tl.math.log2(b_total))
        tl.store(p_lse + (row * heads + head) * T + o_query, b_lse, mask=m_query)
    put(b_sum, p_out + (group * rows + row) * T * RANK, start, RANK, T, BM, RANK, RB)


def forward(saved: Saved) -> tuple[Tensor, Tensor]:
    """Launches the forward kernel.

    Returns:
        Output `[B, T, r]`, and the log (base 2) of the sums of exponentials `[B, H, T]` in fp32.
    """
    x, t, source, key_ranges, heads = saved.x, saved.t, saved.source, saved.key_ranges, saved.heads
    batch, count, width = x.shape
    rank, keys = t.shape[-1], source.shape[1]
    lse = torch.empty(batch, heads, count, dtype=torch.float32, device=x.device)
    if not (batch and count and keys):
        return torch.zeros(batch, count, rank, dtype=x.dtype, device=x.device), lse.fill_(torch.inf)
    k = turned_rows(source, saved.c_k, saved.b_k, saved.cos_k, saved.sin_k, heads)
    u = lorra_values(source, saved.c_v, saved.b_v, saved.a_o, heads)
    first, end = key_ranges.first, key_ranges.end
    half = width // heads // 2
    blocks = blocks_for("lorra_attention", max(2 * half, rank), x.dtype, x.device)
    spans, _ = key_ranges.block_spans(blocks.queries, blocks.keys)
    groups, together = share_heads(heads, triton.cdiv(count, blocks.queries) * batch)
    out = torch.empty(
        groups, batch, count, rank,
        dtype=x.dtype if groups == 1 else torch.float32, device=x.device,
    )  # fmt: skip
    with torch.cuda.device_of(x):
        forward_kernel[triton.cdiv(count, blocks.queries), groups, batch](
            x, t, saved.b_q, k, u, saved.cos_q, saved.sin_q, first, end, spans, out, lse,
            x.stride(0), x.stride(1), t.stride(0), t.stride(1), row_stride(saved.cos_q),
            row_stride(first), row_stride(spans), count, keys, heads, together,
            LOG2_E * (2 * half) ** -0.5,
            HALF=half, HB=padded_width(half), RANK=rank, RB=padded_width(rank), BM=blocks.queries,
            BN=blocks.keys, num_warps=blocks.warps, num_stages=blocks.stages,
        )  # fmt: skip
    return out[0] if groups == 1 else out.sum(0).to(x.dtype), lse


def share_heads(heads: int, blocks: int) -> tuple[int, int]:
    """Groups of heads, and heads in each: each group costs a partial sum `[B, T, r]` in fp32."""
    together = max(1, min(heads, heads * blocks // PROGRAMS))
    groups = triton.cdiv(heads, together)
    return groups, triton.cdiv(heads, groups)


class LorraAttentionContext(AutogradContext):
    """Context of `LorraAttention`."""

    heads: int
    key_ranges: KeyRanges


class LorraAttention(torch.autograd.Function):
    """Autograd's view of it: keeps the inputs and the log-sums, nothing that was made of them."""

    @staticmethod
    def forward(
        ctx: LorraAttentionContext, heads: int, key_ranges: KeyRanges, *tensors: Tensor
    ) -> Tensor:
        out, lse = forward(Saved(heads, key_ranges, *tensors))
        ctx.save_for_backward(lse, *tensors)
        ctx.heads, ctx.key_ranges = heads, key_ranges
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: LorraAttentionContext, d_out: Tensor) -> tuple[Tensor | None, ...]:
        lse, *tensors = ctx.saved_tensors
        saved = Saved(ctx.heads, ctx.key_ranges, *tensors)
        # The gradients are those of this precision, wherever backward is called.
        with torch.autocast(d_out.device.type, enabled=False):
            return None, None, *backward(saved, lse, d_out), None, None, None, None


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
    turn_q: tuple[Tensor, Tensor],
    turn_k: tuple[Tensor, Tensor],
    key_ranges: KeyRanges,
) -> Tensor:
    r"""A learner's attention before its last factor::

        Q = x + t b_q     K = source + c_k b_k     V = source + c_v b_v
        out = softmax(rope(Q) rope(K)^T / sqrt(d) over the key_ranges, head by head) V a_o

    `rope` turns the halves of a head: `(x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin)`.

    Args:
        x: `[B, T, D]`; like all but the turns in fp16, bf16 or fp32, of one dtype and device.
        t: `[B, T, r]`, x times the first factor of the queries; r up to 128.
        source: `[B, S, D]`.
        c_k, c_v: `[B, S, r]`, source times the first factors of the keys and the values.
        b_q, b_k, b_v: `[r, D]`.
        a_o: `[D, r]`.
        heads: H, which divides D into an even width d from 16 to 256.
        turn_q: cos and sin of the queries' positions, `[B or 1, T, d / 2]` each, in fp32.
        turn_k: the same of the keys, `[B or 1, S, d / 2]`.
        key_ranges: which keys each query sees.

    Returns:
        `[B, T, r]` in x's dtype; exact zeros for queries that see no key. Deterministic, and
        differentiable once, in all nine tensors.

    Raises:
        ValueError: something does not fit; nothing has been launched then.
    """
    rows = {"x": x, "t": t, "source": source, "c_k": c_k, "c_v": c_v}
    (cos_q, sin_q), (cos_k, sin_k) = turn_q, turn_k
    tables = {
        "b_q": b_q, "b_k": b_k, "b_v": b_v, "a_o": a_o,
        "cos_q": cos_q, "sin_q": sin_q, "cos_k": cos_k, "sin_k": sin_k,
    }  # fmt: skip
    refuse_misfits(rows | tables, heads, key_ranges)
    given = [dense(row) for row in rows.values()]
    given += [table.contiguous() for table in tables.values()]
    with torch.autocast(x.device.type, enabled=False):
        return LorraAttention.apply(heads, key_ranges, *given)
