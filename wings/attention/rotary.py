"""Rotary positions of the learners: the decoder's base frequency, the learners' own heads."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from transformers import PreTrainedConfig

DEFAULT_BASE = 10000.0


def count_heads(width: int, wanted: int) -> int:
    """The largest number of heads, at most `wanted`, that divides `width` into an even width."""
    return next(
        n for n in range(min(wanted, width), 0, -1) if width % n == 0 and width // n % 2 == 0
    )


def rotary_base(text_config: PreTrainedConfig) -> float:
    """The decoder's rope base; 10,000 for a decoder without rotary positions.

    A decoder with one base per layer type gives that of its full attention, which alone reaches
    as far as the learners do.
    """
    parameters = text_config.to_dict().get("rope_parameters") or {}
    if "rope_theta" not in parameters:
        nested = [entry for entry in parameters.values() if isinstance(entry, dict)]
        parameters = parameters.get("full_attention") or (nested[0] if nested else {})
    return float(parameters.get("rope_theta", DEFAULT_BASE))


@dataclass(frozen=True)
class Rotary:
    """The rotary positions of a model's learners: heads `width` wide, of frequency `base`."""

    width: int
    base: float

    @classmethod
    def of(cls, hidden_size: int, text_config: PreTrainedConfig) -> "Rotary":
        """As many heads as the decoder has where they divide its width evenly, and its base."""
        heads = count_heads(hidden_size, text_config.num_attention_heads)
        return cls(hidden_size // heads, rotary_base(text_config))

    def at(self, position: Tensor, dtype: torch.dtype) -> "Rotation":
        """The rotation of tokens at `position [B, S]`."""
        exponent = torch.arange(0, self.width, 2, device=position.device, dtype=torch.float64)
        # float64 keeps the angle exact to the last bit of fp32 at a million tokens.
        angle = position.to(torch.float64)[..., None] * self.base ** (-exponent / self.width)
        return Rotation(torch.cat([angle.cos(), angle.sin()], dim=-1).to(dtype))


class Rotation:
    """cos and sin of the positions of some tokens, side by side: `table [B, S, d]`.

    Made once per forward, or once per token where a cache keeps it.
    """

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self._matrices: tuple[Tensor, Tensor] | None = None
        self._wide: Tensor | None = None

    @property
    def width(self) -> int:
        """Width d of the heads that it turns."""
        return self.table.shape[-1]

    @property
    def matrices(self) -> tuple[Tensor, Tensor]:
        """`[B, d, d]` that turns heads of a row's only position (S = 1) by a product; and scaled.

        The second has the scale of attention, d^-0.5, in it. Made once for all blocks.
        """
        if self._matrices is None:
            cos, sin = (torch.diag_embed(half[:, 0]) for half in (self.cos, self.sin))
            rows = [torch.cat([cos, sin], dim=-1), torch.cat([-sin, cos], dim=-1)]
            matrix = torch.cat(rows, dim=1)
            self._matrices = matrix, matrix * self.width**-0.5
        return self._matrices

    @property
    def cos(self) -> Tensor:
        """`[B, S, d / 2]`."""
        return self.table.chunk(2, dim=-1)[0]

    @property
    def sin(self) -> Tensor:
        """`[B, S, d / 2]`."""
        return self.table.chunk(2, dim=-1)[1]

    @property
    def wide(self) -> Tensor:
        """`[B, S, d]`: cos for both halves; made once for all blocks."""
        if self._wide is None:
            self._wide = torch.cat([self.cos, self.cos], dim=-1)
        return self._wide

    def __call__(self, heads: Tensor) -> Tensor:
        """Turns `[B, S, H, d]` by its positions (halves paired, as in Llama)."""
        if heads.shape[1] == 1:
            return torch.bmm(heads[:, 0], self.matrices[0])[:, None]
        tables = self.wide[:, :, None], self.sin[:, :, None]
        return Turn.apply(heads, *tables) if heads.requires_grad else turn(heads, *tables)

    def of(self, dtype: torch.dtype) -> "Rotation":
        """The same in the dtype in which a block computes."""
        return self if self.table.dtype == dtype else Rotation(self.table.to(dtype))

    def to(self, device: torch.device) -> "Rotation":
        """A copy on `device`."""
        return Rotation(self.table.to(device))

    def like(self, rows: Tensor) -> "Rotation":
        """The same where `rows` are and in their dtype."""
        table = self.table.to(rows)
        return self if table is self.table else Rotation(table)


class Turn(torch.autograd.Function):
    """(a, b) -> (a cos - b sin, b cos + a sin) on the two halves of the last dimension."""

    @staticmethod
    def forward(ctx: FunctionCtx, heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """heads `[B, S, H, d]`, cos `[B, S, 1, d]`, sin `[B, S, 1, d / 2]`."""
        ctx.save_for_backward(cos, sin)
        return turn(heads, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return turn(gradient, cos, -sin), None, None


def turn(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """What `Turn` computes, in three passes over the numbers.

    Head by head in memory torch's attention would read it faster, but then write in that order too,
    and the copy that the product after it takes is kept for the backward.
    """
    turned = heads * cos
    (a, b), (first, second) = heads.chunk(2, dim=-1), turned.chunk(2, dim=-1)
    first.addcmul_(b, sin, value=-1)
    second.addcmul_(a, sin)
    return turned
