"""Routers: from what the main attention looks at to one weight per learner and token."""

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .layout import IMAGE, PADDING, TEXT, Layout

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

    def columns(self, keys: Layout, dtype: torch.dtype) -> Tensor:
        """`[B, S, M]`: W's column at each key's position; zero for padding."""
        taken = self.by_position(keys.position.clamp(min=0)).to(dtype)
        return taken * (keys.kind != PADDING)[..., None]

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

    def columns(self, keys: Layout, dtype: torch.dtype) -> Tensor:
        """`[B, S, 2 + n]`: is it an image, and which stretch of text (of n + 1) is it in."""
        stretches = torch.arange(int(keys.images.max()) + 1, device=keys.table.device)
        text = (keys.kind == TEXT)[..., None] & (keys.images[..., None] == stretches)
        found = torch.cat([(keys.kind == IMAGE)[..., None], text], dim=-1)
        return found.to(dtype)

    def forward(self, sums: Tensor, queries: Layout) -> Tensor:
        """Logits `[B, T, M]`."""
        image, text = sums[..., :1], sums[..., 1:]
        newest = queries.images[..., None]
        stretch = torch.arange(text.shape[-1], device=text.device)
        before = (text * (stretch < newest)).sum(-1, keepdim=True)
        after = (text * (stretch == newest)).sum(-1, keepdim=True)
        masses = torch.cat([image, before, after], dim=-1)
        return self.outer(nn.functional.gelu(self.inner(masses)))


def gates(logits: Tensor | None, visible: Tensor) -> Tensor:
    """Weights of the learners, `[B, T, M]`.

    Args:
        logits: `[B, T, M]`, or None for no router: weight 1 each.
        visible: `[B, T, M]` bool, the learners with at least one visible key; the others get 0.
    """
    if logits is None:
        return visible.float()
    # Where no learner sees anything a softmax over nothing would be NaN: those weights are dropped.
    blind = ~visible.any(-1, keepdim=True)
    weights = logits.float().masked_fill(~(visible | blind), -torch.inf).softmax(-1)
    return weights * visible
