"""The low-rank residual attention (LoRRA) learner of one modality and one block."""

import torch
from torch import Tensor, nn
from transformers import initialization as init


class Factor(nn.Module):
    """One factor W of a low-rank product x W.

    Not a linear layer, so that what adapts "all linear layers" of a model leaves it alone; but a
    module whose forward hands out the weight, so that what loads weights on demand finds it.
    """

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inner, outer))

    def forward(self, dtype: torch.dtype) -> Tensor:
        """`[inner, outer]` in `dtype`."""
        return self.weight if self.weight.dtype == dtype else self.weight.to(dtype)


class LoRRALearner(nn.Module):
    r"""The eight factors of an attention from a block's input to the layer-0 rows of one modality.

    With x the block's normed input and s the source rows (Wings, section 3.2)::

        Q = x + x A_q B_q     K = s + s A_k B_k     V = s + s A_v B_v
        O = softmax(rope(Q) rope(K)^T / sqrt(d)) V  A_o B_o

    Every B starts at zero, so a fresh learner gives exactly zero. The products stand in
    `learner_attention.py`, where the learners of a block share what they can.
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
        """s [A_k | A_v], what decoding keeps of source rows in this block: `[B, S, 2 r]`."""
        a_k, a_v = self.a_k(source.dtype), self.a_v(source.dtype)
        if source.shape[1] == 1:
            # One row: joining the factors would cost more than it saves.
            row = source[:, 0]
            return torch.cat([row @ a_k, row @ a_v], dim=-1)[:, None]
        return source @ torch.cat([a_k, a_v], dim=-1)

    def inner_factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """B_q, B_k, B_v `[r, D]` and A_o `[D, r]`, in `dtype`."""
        return self.b_q(dtype), self.b_k(dtype), self.b_v(dtype), self.a_o(dtype)
