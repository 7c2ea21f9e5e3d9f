"""`Source`: what a pass can see of one modality; `Kept`: what a block has worked out of it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from .layout import Layout
from .rotary import Rotation
from .visible_attention import Visibility

if TYPE_CHECKING:
    import torch

    from .memory import SourceMemory


@dataclass
class Source:
    """The rows of one modality that a pass can see.

    keys: their layout, `[B, S]`. rows: `[B, S, D]`. rotation: of their positions. visibility: which
    of them each token of the pass sees. turned: `[B, S, H, d]`, the rows turned by their rotation,
    made where a single token asks for them in every block. memory: where blocks keep what they work
    out of the rows, None without a cache. remakes: whether a backward makes keys and values again.
    """

    keys: Layout
    rows: Tensor
    rotation: Rotation
    visibility: Visibility
    memory: "SourceMemory | None" = None
    turned: Tensor | None = None
    remakes: bool = False

    def of(self, dtype: "torch.dtype") -> "Source":
        """The same rows in the dtype in which a block computes."""
        if self.rows.dtype == dtype:
            return self
        turned = None if self.turned is None else self.turned.to(dtype)
        rotation = self.rotation.of(dtype)
        return Source(
            self.keys,
            self.rows.to(dtype),
            rotation,
            self.visibility,
            self.memory,
            turned,
            self.remakes,
        )

    def to(self, device: "torch.device") -> "Source":
        """A copy on `device` with the same memory."""
        turned = None if self.turned is None else self.turned.to(device)
        return Source(
            self.keys.to(device), self.rows.to(device), self.rotation.to(device),
            self.visibility.to(device), self.memory, turned, self.remakes,
        )  # fmt: skip


# B_q, B_k, B_v `[r, D]` and A_o `[D, r]`.
Factors = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass
class Kept:
    """Of every source row in one block: s [A_k | A_v], `[B, S, 2 r]`, and the key where it is kept.

    keys: rope(K) as heads, `[B, H, d, S]`, or None.
    """

    small: Tensor
    keys: Tensor | None = None
