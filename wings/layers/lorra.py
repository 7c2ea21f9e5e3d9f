"""The low-rank residual attention (LoRRA) learner of one modality and one block."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from wings.upstream.weights import init


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

    @property
    def rank(self) -> int:
        """r."""
        return self.a_q.shape[1]

    @property
    def inner(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """B_q, B_k, B_v and A_o: those of one learner's attention, which nothing else shares."""
        return self.b_q, self.b_k, self.b_v, self.a_o

    def compress(self, source: Tensor) -> Tensor:
        """s A_k and s A_v, what decoding keeps of rows `[B, S, D]` in a block: `[B, 2, S, r]`."""
        if source.shape[1] == 1:
            # One row: joining the factors would cost more than it saves.
            row = source[:, 0]
            return torch.stack([row @ self.a_k, row @ self.a_v], dim=1)[:, :, None]
        small = source @ torch.cat([self.a_k, self.a_v], dim=-1)
        return small.unflatten(-1, (2, -1)).transpose(1, 2)


class LoRRALearner(nn.Module):
    r"""The eight factors of an attention from a block's input to the layer-0 rows of one modality.

    With x the block's normed input and s the source rows (Wings, section 3.2)::

        Q = x + x A_q B_q     K = s + s A_k B_k     V = s + s A_v B_v
        O = softmax(rope(Q) rope(K)^T / sqrt(d)) V  A_o B_o

    Every B starts at zero, so a fresh learner gives exactly zero. The products stand in
    `learner_attention.py`, where the learners of a block share what they can; a forward hands out
    the factors, so that what loads weights on demand finds it. They are no linear layers, so that
    what adapts "all linear layers" of a model leaves them alone.
    """

    def __init__(self, width: int, rank: int, heads: int, init_std: float) -> None:
        super().__init__()
        self.heads, self.rank, self.init_std = heads, rank, init_std
        for name in Factors._fields:
            shape = (width, rank) if name.startswith("a") else (rank, width)
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))
        self.reset_parameters()

    def forward(self, dtype: torch.dtype) -> Factors:
        """The factors in `dtype`."""
        factors: list[Tensor] = [held for held in self._parameters.values() if held is not None]
        if self.a_q.dtype != dtype:
            factors = [factor.to(dtype) for factor in factors]
        return Factors(*factors)

    def reset_parameters(self) -> None:
        """A from a normal cut at two standard deviations, B zero; loaded tensors stay."""
        for name, factor in self.named_parameters():
            if name.startswith("a"):
                std = self.init_std
                init.trunc_normal_(factor, std=std, a=-2 * std, b=2 * std)
            else:
                init.zeros_(factor)
