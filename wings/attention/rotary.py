"""Rotary positions of the learners: the decoder's base frequency, the learners' own heads."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedConfig

DEFAULT_BASE = 10000.0


def count_heads(width: int, wanted: int) -> int:
    """The largest number of heads, at most `wanted`, that divides `width` into an even width."""
    return next(
        n for n in range(min(wanted, width), 0, -1) if width % n == 0 and width // n % 2 == 0
    )


def rope_base(text_config: PreTrainedConfig) -> float:
    """The decoder's rope base; 10,000 for a decoder without rotary positions.

    A decoder with one base per layer type gives that of its full attention, which alone reaches
    as far as the learners do.
    """
    parameters = text_config.to_dict().get("rope_parameters") or {}
    if "rope_theta" not in parameters:
        nested = [entry for entry in parameters.values() if isinstance(entry, dict)]
        parameters = parameters.get("full_attention") or (nested[0] if nested else {})
    return float(parameters.get("rope_theta", DEFAULT_BASE))


class CosSin(NamedTuple):
    """cos and sin of the positions of S tokens, for heads of width d.

    Attributes:
        table: cos and sin, `[B, S, d]`: what a cache stores of a token.
        cos: `[B, S, 1, d]`, for both halves of a head.
        sin: `[B, S, 1, d / 2]`.
        matrix: `[B, d, d]`, the rotation as a product, where S = 1; else None.
        scaled_matrix: the same times d^-0.5, the scale of attention.
    """

    table: Tensor
    cos: Tensor
    sin: Tensor
    matrix: Tensor | None
    scaled_matrix: Tensor | None

    @classmethod
    def of(cls, table: Tensor) -> "CosSin":
        """From `table` alone."""
        cos, sin = table.chunk(2, dim=-1)
        matrix = scaled = None
        if table.shape[1] == 1:
            # While decoding one small product costs less than the three passes of `rotate`.
            c, s = torch.diag_embed(cos[:, 0]), torch.diag_embed(sin[:, 0])
            matrix = torch.cat([torch.cat([c, s], dim=-1), torch.cat([-s, c], dim=-1)], dim=1)
            scaled = matrix * table.shape[-1] ** -0.5
        wide = torch.cat([cos, cos], dim=-1)
        return cls(table, wide[:, :, None], sin[:, :, None], matrix, scaled)

    def like(self, tensor: Tensor) -> "CosSin":
        """A copy on the device and in the dtype of `tensor`."""
        table = self.table.to(tensor)
        return self if table is self.table else CosSin.of(table)


@dataclass(frozen=True)
class RotaryEmbedding:
    """The rotary positions of a model's learners: heads `width` wide, of frequency `base`."""

    width: int
    base: float

    @classmethod
    def of(cls, hidden_size: int, text_config: PreTrainedConfig) -> "RotaryEmbedding":
        """As many heads as the decoder has where they divide its width evenly, and its base."""
        heads = count_heads(hidden_size, text_config.num_attention_heads)
        return cls(hidden_size // heads, rope_base(text_config))

    def at(self, position: Tensor, dtype: torch.dtype) -> CosSin:
        """cos and sin of tokens at `position [B, S]`."""
        exponent = torch.arange(0, self.width, 2, device=position.device, dtype=torch.float64)
        # float64 keeps the angle exact to the last bit of fp32 at a million tokens.
        angle = position.to(torch.float64)[..., None] * self.base ** (-exponent / self.width)
        return CosSin.of(torch.cat([angle.cos(), angle.sin()], dim=-1).to(dtype))
