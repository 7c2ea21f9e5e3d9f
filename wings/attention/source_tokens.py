"""`Source`: what a pass can see of one modality; `Kept`: what a block has worked out of it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from .learner_mask import Visibility
from .rotary import Rotation
from .token_layout import Layout

if TYPE_CHECKING:
    import torch

    from wings.cache.learner_cache import SourceMemory


@dataclass
class Source:
    """The rows of one modality that a pass can see.

    keys: their layout, `[B, S]`. rows: `[B, S, D]`. rotation: of their positions. visibility: which
    of them each token of the pass sees. memory: where blocks keep what they work out of the rows,
    None without a cache. remakes: whether a backward makes keys and values again.
    """

    keys: Layout
    rows: Tensor
    rotation: Rotation
    visibility: Visibility
    memory: "SourceMemory | None" = None
    remakes: bool = False

    def __post_init__(self) -> None:
        self._heads: Tensor | None = None
        self._turned: Tensor | None = None

    @property
    def heads(self) -> Tensor:
        """`[B H, S, d]`, the rows head by head; made once for a token that asks in every block."""
        if self._heads is None:
            heads = self.rows.unflatten(-1, (-1, self.rotation.width))
            self._heads = heads.transpose(1, 2).flatten(0, 1)
        return self._heads

    @property
    def turned(self) -> Tensor:
        """`[B, H, d, S]`, the rows turned by their rotation; made once too."""
        if self._turned is None:
            heads = self.rows.unflatten(-1, (-1, self.rotation.width))
            self._turned = self.rotation(heads).permute(0, 2, 3, 1)
        return self._turned

    def of(self, dtype: "torch.dtype") -> "Source":
        """The same rows in the dtype in which a block computes."""
        if self.rows.dtype == dtype:
            return self
        return Source(
            self.keys,
            self.rows.to(dtype),
            self.rotation.of(dtype),
            self.visibility,
            self.memory,
            self.remakes,
        )

    def to(self, device: "torch.device") -> "Source":
        """A copy on `device` with the same memory."""
        return Source(
            self.keys.to(device), self.rows.to(device), self.rotation.to(device),
            self.visibility.to(device), self.memory, self.remakes,
        )  # fmt: skip


@dataclass
class Kept:
    """Of every source row in one block: s A_k and s A_v, and the key where it is kept.

    small: both, `[B, 2, S, r]`. keys: rope(K) as heads, `[B, H, d, S]`, or None.
    """

    small: Tensor
    keys: Tensor | None = None
