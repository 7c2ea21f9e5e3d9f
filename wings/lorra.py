"""The low-rank residual attention (LoRRA) learner of one modality and one block."""

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .rotary import Rotation
from .visible_attention import Visibility


class Factor(nn.Module):
    """One factor of a low-rank product: x -> x W.

    Not a linear layer, so that what adapts "all linear layers" of a model leaves it alone; but a
    module with a forward of its own, so that what loads weights on demand finds it.
    """

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inner, outer))

    def forward(self, x: Tensor) -> Tensor:
        """`[..., inner]` -> `[..., outer]`."""
        return x @ self.weight


class LoRRALearner(nn.Module):
    r"""Attention from a block's input to the layer-0 rows of one modality (Wings, section 3.2).

    With x the block's normed input and s the source rows::

        Q = x + x A_q B_q     K = s + s A_k B_k     V = s + s A_v B_v
        O = softmax(rope(Q) rope(K)^T / sqrt(d)) V  A_o B_o

    Every B starts at zero, so a fresh learner gives exactly zero.
    """

    def __init__(self, width: int, rank: int, heads: int, init_std: float) -> None:
        super().__init__()
        self.heads, self.rank, self.init_std = heads, rank, init_std
        self.a_q, self.b_q = Factor(width, rank), Factor(rank, width)
        self.a_k, self.b_k = Factor(width, rank), Factor(rank, width)
        self.a_v, self.b_v = Factor(width, rank), Factor(rank, width)
        self.a_o, self.b_o = Factor(width, rank), Factor(rank, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A from a normal cut at two standard deviations, B zero; loaded tensors stay."""
        for a in (self.a_q, self.a_k, self.a_v, self.a_o):
            init.trunc_normal_(
                a.weight, std=self.init_std, a=-2 * self.init_std, b=2 * self.init_std
            )
        for b in (self.b_q, self.b_k, self.b_v, self.b_o):
            init.zeros_(b.weight)

    def compress(self, source: Tensor) -> Tensor:
        """What decoding keeps of source rows in this block: `[B, S, D]` -> `[B, S, 2 r]`."""
        return torch.cat([self.a_k(source), self.a_v(source)], dim=-1)

    def forward(
        self,
        x: Tensor,
        source: Tensor,
        compressed: Tensor,
        queries: Rotation,
        keys: Rotation,
        visibility: Visibility,
    ) -> Tensor:
        """The learner's output before B_o.

        Args:
            x: the block's normed input, `[B, T, D]`.
            source: rows of the modality, `[B, S, D]`, padded.
            compressed: `compress(source)`, `[B, S, 2 r]`.
            queries: rotation of the T positions.
            keys: rotation of the S positions.
            visibility: which rows each token sees.

        Returns:
            `[B, T, r]`; exact zeros for tokens that see no row.
        """
        key_part, value_part = compressed.split(self.rank, dim=-1)
        q = self._heads(x + self.b_q(self.a_q(x)))
        k = self._heads(source + self.b_k(key_part))
        v = self._heads(source + self.b_v(value_part))
        q, k = queries(q), keys(k)
        out = visibility.attend(q.to(v.dtype), k.to(v.dtype), v)
        return self.a_o(out.transpose(1, 2).flatten(2))

    def _heads(self, rows: Tensor) -> Tensor:
        return rows.unflatten(-1, (self.heads, -1)).transpose(1, 2)
