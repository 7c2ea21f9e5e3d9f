"""`CrossAttentionLearner`: gated cross-attention to image features, a baseline to compare with."""

import torch
from torch import Tensor, nn

from wings.attention.learner_attention import attend_under_mask, masked_softmax
from wings.attention.rotary import CosSin
from wings.attention.source_tokens import ProductsCache, SourceTokens
from wings.upstream.weights import init

# Heads of this width, as in most language models; narrower if they must divide the rank.
HEAD_WIDTH = 64


class CrossAttentionLearner(nn.Module):
    r"""An attention from a block's input to the layer-0 tokens of one modality, of width w.

    With x the block's normed input and s the source tokens::

        O = tanh(a) softmax(x W_q (s W_k)^T / sqrt(d)) s W_v  W_o

    This is the layer of Flamingo (Alayrac et al. 2022, arXiv 2204.14198): fresh projections and a
    gate a that starts at zero, so a fresh learner gives exactly zero. Here it is beside the block's
    attention and not before it, without a feed-forward part, and w is chosen for equal weights: a
    LoRRA learner has 8 D r of them, this one 4 D w. There are no rotary positions.
    """

    def __init__(self, width: int, inner: int, init_std: float) -> None:
        super().__init__()
        self.heads, self.init_std = max(1, inner // HEAD_WIDTH), init_std
        while inner % self.heads:
            self.heads -= 1
        self.w_q, self.w_k, self.w_v = (nn.Parameter(torch.empty(width, inner)) for _ in range(3))
        self.w_o = nn.Parameter(torch.empty(inner, width))
        self.alpha = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def forward(
        self,
        x: Tensor,
        source: SourceTokens,
        rope: CosSin,
        gate: Tensor,
        cached: ProductsCache | None = None,
    ) -> Tensor:
        """gate * O, `[B, T, D]`; exact zeros for tokens that see no source token.

        Args:
            x: the block's normed input, `[B, T, D]`.
            source: the modality's tokens s, `[B, S, D]`, on x's device and in its dtype.
            rope: not used, as in Flamingo.
            gate: the router's weight of each token, `[B, T, 1]`.
            cached: the block's products s W_k and s W_v of past source tokens, `[B, 2, S, w]`.
        """
        w_q, w_o = self.w_q.to(x.dtype), self.w_o.to(x.dtype)
        q = self._heads(x @ w_q)
        k, v = (self._heads(part) for part in self._products(source, cached).unbind(1))
        if source.decode is not None:
            scores = torch.einsum("bthd,bshd->bhs", q, k) * k.shape[-1] ** -0.5
            weights = masked_softmax(scores, source.mask)
            out = torch.einsum("bhs,bshd->bhd", weights, v).flatten(1)[:, None] @ w_o
        else:
            out = attend_under_mask(q, k, v, w_o, source.mask)
        return out * (torch.tanh(self.alpha).to(x.dtype) * gate)

    def compress(self, tokens: Tensor) -> Tensor:
        """s W_k and s W_v of source tokens `[B, S, D]`: `[B, 2, S, w]`, all a cache needs."""
        both = tokens @ torch.cat([self.w_k, self.w_v], dim=-1).to(tokens.dtype)
        return both.unflatten(-1, (2, -1)).transpose(1, 2)

    def reset_parameters(self) -> None:
        """Projections from a normal cut at two standard deviations, the gate zero."""
        std = self.init_std
        for weight in (self.w_q, self.w_k, self.w_v, self.w_o):
            init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
        init.zeros_(self.alpha)

    def _products(self, source: SourceTokens, cached: ProductsCache | None) -> Tensor:
        if cached is None:
            return self.compress(source.tokens)
        new = source.new
        compressed = None if new is None else self.compress(new.tokens)
        length = None if new is None else new.length
        return cached.update(compressed, None, length)[0].to(source.tokens)

    def _heads(self, part: Tensor) -> Tensor:
        return part.unflatten(-1, (self.heads, -1))
