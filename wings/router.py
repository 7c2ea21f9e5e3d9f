"""Routers: from what the main attention looks at to one weight per learner and token."""

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .layout import IMAGE, TEXT, Layout

HIDDEN = 16


class PositionRouter(nn.Module):
    """The paper's router: logits = W a, one column of W for each key position (section 3.3).

    It needs the head-averaged attention a only through W a, so each key brings the M numbers of
    its position's column, and routed attention returns the logits themselves.
    """

    def __init__(self, learners: int, positions: int) -> None:
        super().__init__()
        self.by_position = nn.Embedding(positions, learners)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Zero: learners start with equal weight at every position."""
        init.zeros_(self.by_position.weight)

    def columns(self, keys: Layout, queries: Layout, dtype: torch.dtype) -> Tensor:
        """`[B, S, M]`: W's column at each key's position; padding, which has no weight, has any."""
        return self.by_position(keys.index).to(dtype)

    def forward(self, sums: Tensor, queries: Layout) -> Tensor:
        """Logits `[B, T, M]`."""
        return sums


class ModalityRouter(nn.Module):
    """A router blind to length: logits = MLP(attention mass on three kinds of keys).

    The masses are those on image tokens, on text before the newest image and on text after it,
    the newest as of the query, so that nothing later matters. It is the paper's attention-shift
    measure (LAWS, section 2) put to use.
    """

    def __init__(self, learners: int) -> None:
        super().__init__()
        self.inner = nn.Linear(3, HIDDEN)
        self.outer = nn.Linear(HIDDEN, learners)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The last layer is zero: learners start with equal weight."""
        init.normal_(self.inner.weight, std=1.0)
        init.zeros_(self.inner.bias)
        init.zeros_(self.outer.weight)
        init.zeros_(self.outer.bias)

    def columns(self, keys: Layout, queries: Layout, dtype: torch.dtype) -> Tensor:
        """`[B, S, 2 + n]`: is it an image, and which stretch of text (of n + 1) is it in.

        For a single query the three kinds are known beforehand: `[B, S, 3]`.
        """
        if len(queries) == 1:
            is_text, newest = keys.kind == TEXT, queries.images
            before, after = is_text & (keys.images < newest), is_text & (keys.images == newest)
            return torch.stack([keys.kind == IMAGE, before, after], dim=-1).to(dtype)
        stretches = torch.arange(int(keys.images.max()) + 1, device=keys.table.device)
        text = (keys.kind == TEXT)[..., None] & (keys.images[..., None] == stretches)
        found = torch.cat([(keys.kind == IMAGE)[..., None], text], dim=-1)
        return found.to(dtype)

    def forward(self, sums: Tensor, queries: Layout) -> Tensor:
        """Logits `[B, T, M]`."""
        masses = sums if len(queries) == 1 else self._masses(sums, queries)
        return self.outer(nn.functional.gelu(self.inner(masses.to(self.inner.weight.dtype))))

    def _masses(self, sums: Tensor, queries: Layout) -> Tensor:
        image, text = sums[..., :1], sums[..., 1:]
        newest = queries.images[..., None]
        stretch = torch.arange(text.shape[-1], device=text.device)
        before = (text * (stretch < newest)).sum(-1, keepdim=True)
        after = (text * (stretch == newest)).sum(-1, keepdim=True)
        return torch.cat([image, before, after], dim=-1)


class Gates:
    """Which learners share a token's weight: those with at least one visible key."""

    def __init__(self, visible: Tensor) -> None:
        """visible: `[B, T, M]` bool."""
        # Where no learner sees anything a softmax over nothing would be NaN: those weights are
        # dropped.
        self.closed = ~(visible | ~visible.any(-1, keepdim=True))
        self.visible = visible.float()

    def __call__(self, logits: Tensor | None) -> Tensor:
        """Logits `[B, T, M]`, or None for weight 1 each -> weights `[B, T, M]`, float32."""
        if logits is None:
            return self.visible
        return logits.float().masked_fill(self.closed, -torch.inf).softmax(-1) * self.visible

    def to(self, device: torch.device) -> "Gates":
        """A copy on `device`."""
        return Gates(self.visible.to(device) > 0)
