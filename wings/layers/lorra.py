"""The low-rank residual attention (LoRRA) learner of one modality and one block."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wings.attention.learner_attention import Recompute, apply_rope, attend, masked_softmax
from wings.attention.rotary import CosSin
from wings.attention.source_tokens import ProductsCache, SourceTokens
from wings.upstream.weights import init

from .dispatch import fused_lorra_attention, fused_lorra_decode
from .router import TokenGate


class Factors(NamedTuple):
    """The eight factors of a learner in one dtype: every A is `[D, r]`, every B `[r, D]`."""

    a_q: Tensor
    b_q: Tensor
    a_k: Tensor
    b_k: Tensor
    a_v: Tensor
    b_v: Tensor
    a_o: Tensor
    b_o: Tensor

    def compress(self, tokens: Tensor) -> Tensor:
        """s A_k and s A_v of source tokens `[B, S, D]`: `[B, 2, S, r]`, all a cache needs."""
        if tokens.shape[1] == 1:
            # One token: joining the factors would cost more than it saves.
            row = tokens[:, 0]
            return torch.stack([row @ self.a_k, row @ self.a_v], dim=1)[:, :, None]
        # One product reads the tokens once.
        both = tokens @ torch.cat([self.a_k, self.a_v], dim=-1)
        return both.unflatten(-1, (2, -1)).transpose(1, 2)


class LoRRALearner(nn.Module):
    r"""An attention from a block's input to the layer-0 tokens of one modality, of rank r.

    With x the block's normed input and s the source tokens (Wings, section 3.2)::

        Q = x + x A_q B_q     K = s + s A_k B_k     V = s + s A_v B_v
        O = softmax(rope(Q) rope(K)^T / sqrt(d)) V  A_o B_o

    Every B starts at zero, so a fresh learner gives exactly zero. The factors are no linear layers,
    so that what adapts "all linear layers" of a model leaves them alone.
    """

    def __init__(self, width: int, rank: int, heads: int, init_std: float) -> None:
        super().__init__()
        self.heads, self.rank, self.init_std = heads, rank, init_std
        for name in Factors._fields:
            shape = (width, rank) if name.startswith("a") else (rank, width)
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))
        self.reset_parameters()

    def forward(
        self,
        x: Tensor,
        source: SourceTokens,
        rope: CosSin,
        gate: Tensor | TokenGate,
        cached: ProductsCache | None = None,
    ) -> Tensor:
        """gate * O, `[B, T, D]`; exact zeros for tokens that see no source token.

        Args:
            x: the block's normed input, `[B, T, D]`.
            source: the modality's tokens s, `[B, S, D]`, on x's device and in its dtype.
            rope: of the positions of the T tokens.
            gate: the router's weight of each token, `[B, T, 1]`, or for the decode kernel what it
                follows from.
            cached: the block's products of past source tokens, which takes in the new ones; None
                in a pass without a cache.
        """
        factors = self.factors(x.dtype)
        a_q, b_q, _, b_k, _, b_v, a_o, b_o = factors
        compressed, keys = products(factors, source, cached)
        if source.decode is not None:
            row = x[:, 0]
            if source.impl == "triton":
                fused = b_q, b_k, b_v, a_o, b_o
                token_gate = TokenGate(gate[:, 0, 0]) if isinstance(gate, Tensor) else gate
                parts = compressed, fused, token_gate, rope
                return fused_lorra_decode(row, row @ a_q, source, *parts)[:, None]
            assert isinstance(gate, Tensor), "only the decode kernel computes gates"
            q = torch.addmm(row, row @ a_q, b_q)
            out = decode_step(q, source, compressed, keys, (b_k, b_v, a_o), rope)
            return ((out * gate[:, 0]) @ b_o)[:, None]
        assert isinstance(gate, Tensor), "only the decode kernel computes gates"
        inner = b_q, b_k, b_v, a_o
        out = lorra_attention(x, x @ a_q, source, compressed, keys, inner, rope, source.impl)
        # The gate multiplies r numbers a token, not D.
        return (out * gate) @ b_o

    def factors(self, dtype: torch.dtype) -> Factors:
        """The factors in `dtype`."""
        factors = Factors(*(p for p in self._parameters.values() if p is not None))
        if self.a_q.dtype == dtype:
            return factors
        return Factors(*(factor.to(dtype) for factor in factors))

    def reset_parameters(self) -> None:
        """A from a normal cut at two standard deviations, B zero; loaded tensors stay."""
        for name, factor in self.named_parameters():
            if name.startswith("a"):
                std = self.init_std
                init.trunc_normal_(factor, std=std, a=-2 * std, b=2 * std)
            else:
                init.zeros_(factor)


def lorra_attention(
    x: Tensor,
    query_part: Tensor,
    source: SourceTokens,
    compressed: Tensor,
    keys: Tensor | None,
    factors: tuple[Tensor, Tensor, Tensor, Tensor],
    rope: CosSin,
    impl: str = "torch",
) -> Tensor:
    """softmax(rope(Q) rope(K)^T / sqrt(d)) V A_o under the source's mask, `[B, T, r]`.

    Args:
        x: the block's normed input, `[B, T, D]`.
        query_part: x A_q, `[B, T, r]`.
        source: the source tokens s, `[B, S, D]`, their positions and mask.
        compressed: s A_k and s A_v, `[B, 2, S, r]`.
        keys: rope(K), `[B, H, d, S]`, where a cache has them.
        factors: B_q, B_k, B_v `[r, D]` and A_o `[D, r]`.
        rope: of the positions of the T tokens; its width is that of the heads.
        impl: "torch" or "triton".
    """
    if impl == "triton":
        return fused_lorra_attention(x, query_part, source, compressed, factors, rope)
    b_q, b_k, b_v, a_o = factors
    width = rope.table.shape[-1]
    key_part, value_part = compressed.unbind(1)
    key_parts, value_parts = (source.tokens, key_part, b_k), (source.tokens, value_part, b_v)
    expand_heads = partial(expand, width=width)
    q = expand_heads(x, query_part, b_q)
    k = expand_heads(*key_parts) if keys is None else keys.permute(0, 3, 1, 2)
    v = expand_heads(*value_parts)
    # Gradient checkpointing runs the whole block again, so there is nothing left to save then.
    recompute = None
    if source.recompute_kv and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        recompute = Recompute(expand_heads, key_parts, value_parts)
    key_rope = source.rope if keys is None else None
    return attend(q, k, v, a_o, source.mask, rope, key_rope, recompute)


def decode_step(
    q: Tensor,
    source: SourceTokens,
    compressed: Tensor,
    keys: Tensor | None,
    factors: tuple[Tensor, Tensor, Tensor],
    rope: CosSin,
) -> Tensor:
    """`lorra_attention` for one token a row: q `[B, D]` -> `[B, r]`.

    An operation costs about as much to launch as to run here. So no value is expanded, and no key
    unless the cache has it. `factors`: B_k, B_v, A_o.
    """
    b_k, b_v, a_o = factors
    decode = source.decode
    assert decode is not None and decode.heads is not None, "a decode step in torch"
    assert rope.scaled_matrix is not None
    batch, width = len(q), rope.table.shape[-1]
    g = torch.bmm(q.view(batch, -1, width), rope.scaled_matrix)
    heads = g.shape[1]
    past = decode.roped if keys is None else keys
    assert past is not None, "without cached keys the tokens are roped"
    scores = torch.bmm(g.view(batch * heads, 1, width), past.flatten(0, 1))
    scores = scores.view(batch, heads, -1)
    if keys is None:
        scores = scores + low_rank_scores(g, compressed[:, 0], b_k, decode.rope_table)
    weights = masked_softmax(scores, source.mask)

    # Values are weighed first and expanded afterwards.
    out = torch.bmm(weights.view(batch * heads, 1, -1), decode.heads)
    inner = torch.bmm(weights, compressed[:, 1])
    by_head = b_v.view(-1, heads, width).transpose(0, 1)
    out = out.view(batch, heads, width).transpose(0, 1)
    out = torch.baddbmm(out, inner.transpose(0, 1), by_head)
    return out.transpose(0, 1).reshape(batch, -1) @ a_o


def low_rank_scores(g: Tensor, key_part: Tensor, b_k: Tensor, rope_table: Tensor) -> Tensor:
    """g rope(c B_k)^T for one query, `[B, H, S]`, without the keys.

    With c_j a row of `key_part` and (1, 2) the halves that rope pairs, a head's score is the sum
    over pairs of c_j (B^1 g^1 + B^2 g^2) cos_j + c_j (B^1 g^2 - B^2 g^1) sin_j: the factor takes
    in the query, and each key only brings its cos and sin.

    Args:
        g: rope(Q), `[B, H, d]`, scaled.
        key_part: s A_k, `[B, S, r]`.
        b_k: `[r, D]`.
        rope_table: cos and sin of the S positions, `[B, S, d]`.
    """
    heads = g.shape[1]
    first, second = b_k.unflatten(-1, (heads, 2, -1)).unbind(2)
    g_first, g_second = g[:, None].unflatten(-1, (2, -1)).unbind(3)
    folded = torch.cat(
        [first * g_first + second * g_second, first * g_second - second * g_first], dim=-1
    )
    spread = (key_part @ folded.flatten(2)).unflatten(-1, (heads, -1))
    return (spread @ rope_table[..., None])[..., 0].transpose(1, 2)


def products(
    factors: Factors, source: SourceTokens, cached: ProductsCache | None
) -> tuple[Tensor, Tensor | None]:
    """s A_k and s A_v, `[B, 2, S, r]`, and rope(K), `[B, H, d, S]`, where a cache keeps it.

    With a cache only those of tokens that it does not have yet are computed, and added to it.
    """
    if cached is None:
        return factors.compress(source.tokens), None
    compressed = keys = length = None
    new = source.new
    if new is not None:
        compressed, length = factors.compress(new.tokens), new.length
        if cached.keeps_keys:
            keys = expand(new.tokens, compressed[:, 0], factors.b_k, new.rope.table.shape[-1])
            keys = apply_rope(keys, new.rope).permute(0, 2, 3, 1)
    compressed, keys = cached.update(compressed, keys, length)
    return compressed.to(source.tokens), None if keys is None else keys.to(source.tokens)


def expand(tokens: Tensor, inner: Tensor, outer: Tensor, width: int) -> Tensor:
    """tokens + inner outer, as heads: `[B, S, D]`, `[B, S, r]`, `[r, D]` -> `[B, S, H, width]`."""
    # The sum and the product in one operation: no second [S, D] tensor is written.
    whole = torch.addmm(tokens.flatten(0, 1), inner.flatten(0, 1), outer)
    return whole.view(*tokens.shape[:2], -1, width)
