"""Rotary positions of the learners: the decoder's base frequency, the learners' own heads."""

from copy import copy

import torch
from torch import Tensor
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


class Rotation:
    """cos and sin of the positions of some tokens, `[B, 1, S, d]` each, made once per forward."""

    def __init__(self, position: Tensor, head_width: int, base: float, dtype: torch.dtype) -> None:
        exponent = torch.arange(0, head_width, 2, device=position.device, dtype=torch.float64)
        # float64 keeps the angle exact to the last bit of fp32 at a million tokens.
        frequency = base ** (-exponent / head_width)
        angle = position.to(torch.float64)[:, None, :, None] * frequency
        angle = torch.cat([angle, angle], dim=-1)
        self.cos, self.sin = angle.cos().to(dtype), angle.sin().to(dtype)

    def __call__(self, heads: Tensor) -> Tensor:
        """Turns `[B, H, S, d]` by its positions (halves paired, as in Llama)."""
        first, second = heads.chunk(2, dim=-1)
        return heads * self.cos + torch.cat([-second, first], dim=-1) * self.sin

    def to(self, device: torch.device) -> "Rotation":
        """A copy on `device`."""
        moved = copy(self)
        moved.cos, moved.sin = self.cos.to(device), self.sin.to(device)
        return moved
