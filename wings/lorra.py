"""The low-rank residual attention (LoRRA) learner of one modality and one block."""

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .rotary import Rotation
from .visible_attention import Visibility


class LoRRALearner(nn.Module):
    r"""Attention from a block's input to the layer-0 rows of one modality (Wings, section 3.2).

    With x the block's normed input and s the source rows::

        Q = x + x A_q B_q     K = s + s A_k B_k     V = s + s A_v B_v
        O = softmax(rope(Q) rope(K)^T / sqrt(d)) V  A_o B_o

    Every B starts at zero, so a fresh learner gives exactly zero. The factors are bare parameters,
    not linear layers: what adapts "all linear layers" of a model leaves them alone.
    """

    def __init__(self, width: int, rank: int, heads: int, init_std: float) -> None:
        super().__init__()
        self.heads, self.rank, self.init_std = heads, rank, init_std
        for name in ("q", "k", "v", "o"):
            self.register_parameter(f"a_{name}", nn.Parameter(torch.empty(width, rank)))
            self.register_parameter(f"b_{name}", nn.Parameter(torch.empty(rank, width)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A from a normal cut at two standard deviations, B zero; loaded tensors stay."""
        for a in (self.a_q, self.a_k, self.a_v, self.a_o):
            init.trunc_normal_(a, std=self.init_std, a=-2 * self.init_std, b=2 * self.init_std)
        for b in (self.b_q, self.b_k, self.b_v, self.b_o):
            init.zeros_(b)

    def compress(self, source: Tensor) -> Tensor:
        """What decoding keeps of source rows in this block: `[B, S, D]` -> `[B, S, 2 r]`."""
        return source @ torch.cat([self.a_k, self.a_v], dim=1).to(source.dtype)

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
        q = self._heads(x + x @ self.a_q @ self.b_q)
        k = self._heads(source + key_part @ self.b_k)
        v = self._heads(source + value_part @ self.b_v)
        q, k = queries(q), keys(k)
        out = visibility.attend(q.to(v.dtype), k.to(v.dtype), v)
        return out.transpose(1, 2).flatten(2) @ self.a_o

    def _heads(self, rows: Tensor) -> Tensor:
        return rows.unflatten(-1, (self.heads, -1)).transpose(1, 2)
