"""LoRRA attention of one token a row, with the gate and the last factor: a step of decoding.

With q the token's rotated query of a head, and key j at its own position::

    score_j = q . rope_j(s_j + c_k,j b_k) = rope_j^-1(q) . (s_j + c_k,j b_k)
    out = gate sum_h softmax_j(score_j) (s_j + c_v,j b_v)_h A_h  b_o

So the query is rotated to the key's position, and not the key. A tile of source rows is loaded
once, and is both key and value. Values are weighed first, their low-rank part is expanded later.
The gate is given, or follows from the attention's mass on the sense as in `AttendedRouter`.

Three kernels follow the product t = x A_q. The first works on pieces of the keys of each head. The
second joins the pieces of a head and multiplies by its rows of a_o. The third computes the columns
of the output. Every head reads c_k, c_v, cos and sin of its keys again; they stay in the L2 cache.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wings.kernels.decode_splits import count_splits, load_splits
from wings.kernels.tiles import LOG2_E, dot, padded_width, round_to
from wings.kernels.tuning import blocks_for

from .validation import validate_decode, validate_gate


@triton.jit
def load_factor(
    p_factor: tl.tensor, stride: tl.tensor,
    ROWS: tl.constexpr, RB: tl.constexpr, COLUMNS: tl.constexpr, CB: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Loads `ROWS` rows and `COLUMNS` columns of a matrix as `[RB, CB]`; zeros outside."""
    o_row, o_column = tl.arange(0, RB), tl.arange(0, CB)
    m_tile = (o_row < ROWS)[:, None] & (o_column < COLUMNS)[None, :]
    p_tile = p_factor + o_row[:, None] * stride + o_column[None, :]
    return tl.load(p_tile, mask=m_tile, other=0.0)


@triton.jit
def load_vector(p_vector: tl.tensor, COUNT: tl.constexpr, PADDED: tl.constexpr) -> tl.tensor:
    """Loads `COUNT` numbers as fp32 `[PADDED]`; zeros after them."""
    o_number = tl.arange(0, PADDED)
    return tl.load(p_vector + o_number, mask=o_number < COUNT, other=0.0).to(tl.float32)


@triton.jit
def times(b_vector: tl.tensor, b_matrix: tl.tensor) -> tl.tensor:
    """`[N] @ [N, M]` in fp32, without tensor cores, which need 16 rows."""
    return tl.sum(b_vector[:, None] * b_matrix.to(tl.float32), 0)


@triton.jit(do_not_specialize=["S", "stride_hidden"])
def split_kernel(
    p_x: tl.tensor, p_t: tl.tensor, p_b_q: tl.tensor, p_b_k: tl.tensor,
    p_source: tl.tensor, p_compressed: tl.tensor,
    p_rope_q: tl.tensor, p_rope_k: tl.tensor, p_hidden: tl.tensor,
    p_stats: tl.tensor, p_sums: tl.tensor,
    stride_x: tl.tensor, stride_t: tl.tensor, stride_sb: tl.tensor, stride_s: tl.tensor,
    stride_cb: tl.tensor, stride_cp: tl.tensor, stride_c: tl.tensor,
    stride_qb: tl.tensor, stride_kb: tl.tensor, stride_k: tl.tensor, stride_hidden: tl.tensor,
    S: tl.tensor, heads: tl.tensor, factor: tl.tensor,
    HALF: tl.constexpr, HB: tl.constexpr, RANK: tl.constexpr, RB: tl.constexpr,
    BN: tl.constexpr, HAS_HIDDEN: tl.constexpr,
) -> None:  # fmt: skip
    """One program weighs a piece of the keys of one head: largest score, total, and sums."""
    split, head = tl.program_id(0), tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    width, column = heads * 2 * HALF, head * 2 * HALF
    o_key, o_half, o_rank = tl.arange(0, BN), tl.arange(0, HB), tl.arange(0, RB)
    m_half, m_rank = o_half < HALF, o_rank < RANK

    # The query, scaled, in fp32.
    b_t = load_vector(p_t + batch * stride_t, RANK, RB)
    p_row = p_x + batch * stride_x + column
    b_x1 = load_vector(p_row, HALF, HB)
    b_x1 += times(b_t, load_factor(p_b_q + column, width, RANK, RB, HALF, HB))
    b_x2 = load_vector(p_row + HALF, HALF, HB)
    b_x2 += times(b_t, load_factor(p_b_q + column + HALF, width, RANK, RB, HALF, HB))
    b_rope1 = load_vector(p_rope_q + batch * stride_qb, HALF, HB)
    b_rope2 = load_vector(p_rope_q + batch * stride_qb + HALF, HALF, HB)
    b_q1 = (b_x1 * b_rope1 - b_x2 * b_rope2) * factor
    b_q2 = (b_x2 * b_rope1 + b_x1 * b_rope2) * factor

    b_f1 = load_factor(p_b_k + column, width, RANK, RB, HALF, HB)
    b_f2 = load_factor(p_b_k + column + HALF, width, RANK, RB, HALF, HB)
    p_source += batch * stride_sb + column
    p_compressed += batch * stride_cb
    p_rope_k += batch * stride_kb
    b_max = float("-inf")
    b_total = 0.0
    b_sum1 = tl.zeros([HB], tl.float32)
    b_sum2 = tl.zeros([HB], tl.float32)
    b_low = tl.zeros([RB], tl.float32)
    for start in range(split * BN, S, tl.num_programs(0) * BN):
        m_key = start + o_key < S
        if HAS_HIDDEN:
            p_key = p_hidden + batch * stride_hidden + start + o_key
            m_key = m_key & (tl.load(p_key, mask=m_key, other=1) == 0)
        # What no token sees is not read: of a static cache, all that is not filled yet.
        m_tile, m_low = m_key[:, None] & m_half[None, :], m_key[:, None] & m_rank[None, :]
        at = tl.cast(start, tl.int64)
        p_tile = p_source + at * stride_s + (o_key[:, None] * stride_s + o_half[None, :])
        b_s1 = tl.load(p_tile, mask=m_tile, other=0.0).to(tl.float32)
        b_s2 = tl.load(p_tile + HALF, mask=m_tile, other=0.0).to(tl.float32)
        p_low = p_compressed + at * stride_c + (o_key[:, None] * stride_c + o_rank[None, :])
        b_c = tl.load(p_low, mask=m_low, other=0.0)
        b_k1, b_k2 = dot(b_c, b_f1, b_s1), dot(b_c, b_f2, b_s2)
        p_rope_tile = p_rope_k + at * stride_k + (o_key[:, None] * stride_k + o_half[None, :])
        b_cos = tl.load(p_rope_tile, mask=m_tile, other=0.0).to(tl.float32)
        b_sin = tl.load(p_rope_tile + HALF, mask=m_tile, other=0.0).to(tl.float32)
        b_u1 = b_q1[None, :] * b_cos + b_q2[None, :] * b_sin
        b_u2 = b_q2[None, :] * b_cos - b_q1[None, :] * b_sin
        b_score = tl.sum(b_k1 * b_u1 + b_k2 * b_u2, 1)
        b_score = tl.where(m_key, b_score, float("-inf"))

        b_new = tl.maximum(b_max, tl.max(b_score, 0))
        # If no key was visible so far, the maximum is -inf, and -inf - -inf would be NaN.
        b_shift = tl.where(b_new == float("-inf"), 0.0, b_new)
        b_p = tl.math.exp2(b_score - b_shift)
        b_shrink = tl.math.exp2(b_max - b_shift)
        b_total = b_total * b_shrink + tl.sum(b_p, 0)
        b_sum1 = b_sum1 * b_shrink + times(b_p, b_s1)
        b_sum2 = b_sum2 * b_shrink + times(b_p, b_s2)
        b_c = tl.load(p_low + stride_cp, mask=m_low, other=0.0)
        b_low = b_low * b_shrink + times(b_p, b_c)
        b_max = b_new

    piece = (batch * heads + head) * tl.num_programs(0) + split
    tl.store(p_stats + piece * 2, b_max)
    tl.store(p_stats + piece * 2 + 1, b_total)
    p_sums += piece * (2 * HALF + RANK)
    tl.store(p_sums + o_half, b_sum1, mask=m_half)
    tl.store(p_sums + HALF + o_half, b_sum2, mask=m_half)
    tl.store(p_sums + 2 * HALF + o_rank, b_low, mask=m_rank)


@triton.jit(do_not_specialize=["splits"])
def join_kernel(
    p_stats: tl.tensor, p_sums: tl.tensor, p_b_v: tl.tensor, p_a_o: tl.tensor, p_parts: tl.tensor,
    splits: tl.tensor, heads: tl.tensor,
    HALF: tl.constexpr, HB: tl.constexpr, RANK: tl.constexpr, RB: tl.constexpr,
    SPLITS: tl.constexpr,
) -> None:  # fmt: skip
    """One program joins the pieces of a head, and multiplies by its rows of a_o."""
    head, batch = tl.program_id(0), tl.program_id(1).to(tl.int64)
    width, column = heads * 2 * HALF, head * 2 * HALF
    o_split, o_half, o_rank = tl.arange(0, SPLITS), tl.arange(0, HB), tl.arange(0, RB)
    m_split = o_split < splits
    first = (batch * heads + head) * splits
    b_weight = load_splits(p_stats + first * 2, splits, 1, 1, SPLITS)
    b_weight = tl.reshape(b_weight, (SPLITS,))
    stride = 2 * HALF + RANK
    p_row = p_sums + first * stride + o_split[:, None] * stride
    m_half = m_split[:, None] & (o_half < HALF)[None, :]
    m_low = m_split[:, None] & (o_rank < RANK)[None, :]
    b_o1 = times(b_weight, tl.load(p_row + o_half[None, :], mask=m_half, other=0.0))
    b_o2 = times(b_weight, tl.load(p_row + HALF + o_half[None, :], mask=m_half, other=0.0))
    b_low = times(b_weight, tl.load(p_row + 2 * HALF + o_rank[None, :], mask=m_low, other=0.0))
    b_o1 += times(b_low, load_factor(p_b_v + column, width, RANK, RB, HALF, HB))
    b_o2 += times(b_low, load_factor(p_b_v + column + HALF, width, RANK, RB, HALF, HB))
    p_a_o += column * RANK
    b_part = times(b_o1, load_factor(p_a_o, RANK, HALF, HB, RANK, RB))
    b_part += times(b_o2, load_factor(p_a_o + HALF * RANK, RANK, HALF, HB, RANK, RB))
    tl.store(p_parts + (batch * heads + head) * RANK + o_rank, b_part, mask=o_rank < RANK)


@triton.jit
def tanh_gate(mass: tl.tensor, raw: tl.tensor) -> tl.tensor:
    """tanh(softplus(raw) mass) of numbers in fp32, to some 1e-6 of it however small it is."""
    # log(1 + e) and 1 - exp(-2 x) lose the digits of a small e or x: their series keep them.
    e = tl.exp(-tl.abs(raw))
    series = e * (1 - e * (0.5 - e * (1.0 / 3 - e * (0.25 - e * (0.2 - e * (1.0 / 6))))))
    rest = tl.where(e < 0.1, series, tl.log(1 + e))
    x = (tl.maximum(raw, 0.0) + rest) * mass
    square = x * x
    series = x * (1 - square * (1.0 / 3 - square * (2.0 / 15 - square * (17.0 / 315))))
    shrunk = tl.exp(-2 * x)
    return tl.where(x < 0.1, series, (1 - shrunk) / (1 + shrunk))


@triton.jit
def hill_gate(mass: tl.tensor, raw: tl.tensor, power: tl.tensor) -> tl.tensor:
    """1 / (1 + (exp(raw) / mass)^power) of numbers in fp32; 0 without mass."""
    logit = power * (tl.log(tl.where(mass > 0, mass, 1.0)) - raw)
    # Capped, as an infinite exponential is a warning in the interpreter.
    return tl.where(mass > 0, 1 / (1 + tl.exp(tl.minimum(-logit, 80.0))), 0.0)


@triton.jit
def output_kernel(
    p_parts: tl.tensor, p_gate: tl.tensor, p_mass: tl.tensor, p_raw: tl.tensor, p_b_o: tl.tensor,
    p_out: tl.tensor,
    stride_gate: tl.tensor, stride_mass: tl.tensor, power: tl.tensor, width: tl.tensor,
    HEADS: tl.constexpr, HEADS_B: tl.constexpr, RANK: tl.constexpr, RB: tl.constexpr,
    BD: tl.constexpr, HAS_MASS: tl.constexpr, IS_HILL: tl.constexpr,
) -> None:  # fmt: skip
    """One program adds the heads up, and computes a block of the output's columns."""
    start, batch = tl.program_id(0) * BD, tl.program_id(1).to(tl.int64)
    o_rank, o_column = tl.arange(0, RB), start + tl.arange(0, BD)
    p_parts += batch * HEADS * RANK
    b_out = tl.sum(load_factor(p_parts, RANK, HEADS, HEADS_B, RANK, RB), 0)
    gate = tl.load(p_gate + batch * stride_gate).to(tl.float32)
    if HAS_MASS:
        mass = tl.load(p_mass + batch * stride_mass).to(tl.float32)
        raw = tl.load(p_raw).to(tl.float32)
        gate *= hill_gate(mass, raw, power) if IS_HILL else tanh_gate(mass, raw)
    b_out = b_out * gate
    m_tile = (o_rank < RANK)[:, None] & (o_column < width)[None, :]
    p_tile = p_b_o + o_rank[:, None] * width + o_column[None, :]
    b_row = times(b_out, tl.load(p_tile, mask=m_tile, other=0.0))
    b_row = round_to(b_row, p_out.dtype.element_ty)
    tl.store(p_out + batch * width + o_column, b_row, mask=o_column < width)


def launch(
    x: Tensor,
    t: Tensor,
    source: Tensor,
    compressed: Tensor,
    b_q: Tensor,
    b_k: Tensor,
    b_v: Tensor,
    a_o: Tensor,
    b_o: Tensor,
    gate: Tensor,
    heads: int,
    rope_q: Tensor,
    rope_k: Tensor,
    hidden: Tensor | None,
    mass: Tensor | None = None,
    raw: Tensor | None = None,
    power: float = 0.0,
) -> Tensor:
    r"""gate times the output of one learner for one token a row, `[B, D]` in x's dtype.

    Not differentiable: decoding needs no gradient. Deterministic. One operator of torch's library,
    so that a compiled step stays one graph.

    Args:
        x: `[B, D]` in fp16, bf16 or fp32. All other tensors but `hidden` and those of the gate
            have its dtype.
        t: `[B, r]`, x times the first query factor; r up to 128.
        source: `[B, S, D]`; S may be the capacity of a static cache.
        compressed: `[B, 2, S, r]`, source times the first key and value factors.
        b_q, b_k, b_v, b_o: `[r, D]`.
        a_o: `[D, r]`.
        gate: `[B]`, the router's weights in any float dtype; with `mass` a factor of them.
        heads: H; d = D / H must be even and from 16 to 256.
        rope_q: cos and sin of the tokens' positions, `[B, d]`.
        rope_k: cos and sin of the keys' positions, `[B, S, d]`.
        hidden: `[B, S]` bool, keys without weight, whose rows are not read; None if all have some.
        mass: `[B]`, the main attention's mass on the sense in any float dtype, from which the
            kernel computes the weights of an `AttendedRouter`; None where `gate` has them.
        raw: `[1]`, the router's parameter; given with `mass`.
        power: of a Hill gate; 0 for a tanh gate.

    Returns:
        `[B, D]`; exact zeros for a row whose keys are all hidden.

    Raises:
        ValueError: an argument does not fit; raised before any launch.
    """
    tensors = {
        "x": x, "t": t, "source": source, "compressed": compressed, "b_q": b_q, "b_k": b_k,
        "b_v": b_v, "a_o": a_o, "b_o": b_o, "rope_q": rope_q, "rope_k": rope_k,
    }  # fmt: skip
    validate_decode(tensors, heads, hidden)
    validate_gate(x, gate, mass, raw, power)
    (batch, width), (keys, rank) = x.shape, (source.shape[1], t.shape[1])
    if not (batch and keys):
        return torch.zeros_like(x)
    half = width // heads // 2
    blocks = blocks_for("lorra_decode", max(2 * half, rank), x.dtype, x.device)
    splits = count_splits(keys, blocks.keys, batch * heads)
    stats = torch.empty(batch, heads, splits, 2, dtype=torch.float32, device=x.device)
    sums = torch.empty(
        batch, heads, splits, 2 * half + rank, dtype=torch.float32, device=x.device
    )  # fmt: skip
    parts = torch.empty(batch, heads, rank, dtype=torch.float32, device=x.device)
    out = torch.empty(batch, width, dtype=x.dtype, device=x.device)
    sizes = {"HALF": half, "HB": padded_width(half), "RANK": rank, "RB": padded_width(rank)}
    options = {"num_warps": blocks.warps, "num_stages": blocks.stages}
    with torch.cuda.device_of(x):
        split_kernel[splits, heads, batch](
            x, t, b_q, b_k, source, compressed, rope_q, rope_k,
            x if hidden is None else hidden.view(torch.uint8), stats, sums,
            x.stride(0), t.stride(0), source.stride(0), source.stride(1), compressed.stride(0),
            compressed.stride(1), compressed.stride(2), rope_q.stride(0), rope_k.stride(0),
            rope_k.stride(1), 0 if hidden is None else hidden.stride(0),
            keys, heads, LOG2_E * (2 * half) ** -0.5,
            **sizes, BN=blocks.keys, HAS_HIDDEN=hidden is not None, **options,
        )  # fmt: skip
        join_kernel[heads, batch](
            stats, sums, b_v, a_o, parts, splits, heads,
            **sizes, SPLITS=triton.next_power_of_2(splits), **options,
        )  # fmt: skip
        output_kernel[triton.cdiv(width, blocks.queries), batch](
            parts, gate, gate if mass is None else mass, gate if raw is None else raw, b_o, out,
            gate.stride(0), 0 if mass is None else mass.stride(0), power, width,
            HEADS=heads, HEADS_B=triton.next_power_of_2(heads), RANK=rank, RB=sizes["RB"],
            BD=blocks.queries, HAS_MASS=mass is not None, IS_HILL=power > 0, **options,
        )  # fmt: skip
    return out


lorra_decode = torch.library.custom_op("wings::lorra_decode", launch, mutates_args=())


@lorra_decode.register_fake
def _(x: Tensor, *arguments: object) -> Tensor:
    return x.new_empty(x.shape)
