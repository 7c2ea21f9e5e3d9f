"""Routers: from the main attention's weights to one weight per learner and token."""

import math

import torch
from torch import Tensor, nn

from wings.attention.token_layout import IMAGE, TEXT, TokenLayout
from wings.upstream.weights import init

HIDDEN = 16
# The attended router's initial gain: with a tenth of its attention on image tokens, a token gives
# its learners a weight of tanh(0.8) = 0.66.
GAIN = 8.0


class PositionRouter(nn.Module):
    """The paper's router: logits = W a, one column of W for each key position (section 3.3).

    The head-averaged attention a enters only through W a. So each key has the M numbers of its
    position's column, and routed attention returns the logits themselves.
    """

    def __init__(self, learners: int, positions: int) -> None:
        super().__init__()
        self.by_position = nn.Embedding(positions, learners)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Zero: learners start with equal weight at every position."""
        init.zeros_(self.by_position.weight)

    def columns(self, keys: TokenLayout, queries: TokenLayout, dtype: torch.dtype) -> Tensor:
        """`[B, S, M]`: W's column at each key's position.

        Padding positions are clamped; their attention weight is zero.
        """
        return self.by_position(keys.position.clamp(min=0)).to(dtype)

    def forward(self, sums: Tensor, queries: TokenLayout, gate_mask: "GateMask") -> Tensor:
        """Weights `[B, T, M]`, float32."""
        return gate_mask.softmax(sums)


class ModalityRouter(nn.Module):
    """A router independent of length: logits = MLP(mass on three kinds of keys).

    The masses are those on image tokens, on text before the newest image and on text after it. The
    newest is the query's own, so nothing later matters. The masses are the paper's attention-shift
    measure (LAWS, section 2).
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

    def columns(self, keys: TokenLayout, queries: TokenLayout, dtype: torch.dtype) -> Tensor:
        """`[B, S, 2 + n]`: one-hot of image, and of the n + 1 pieces of text around images.

        For a single query the three kinds are known beforehand: `[B, S, 3]`.
        """
        if queries.length == 1:
            is_text, newest = keys.kind == TEXT, queries.images
            before, after = is_text & (keys.images < newest), is_text & (keys.images == newest)
            return torch.stack([keys.kind == IMAGE, before, after], dim=-1).to(dtype)
        stretches = torch.arange(int(keys.images.max()) + 1, device=keys.table.device)
        text = (keys.kind == TEXT)[..., None] & (keys.images[..., None] == stretches)
        found = torch.cat([(keys.kind == IMAGE)[..., None], text], dim=-1)
        return found.to(dtype)

    def forward(self, sums: Tensor, queries: TokenLayout, gate_mask: "GateMask") -> Tensor:
        """Weights `[B, T, M]`, float32."""
        masses = sums if queries.length == 1 else self._masses(sums, queries)
        inner = self.inner(masses.to(self.inner.weight.dtype))
        return gate_mask.softmax(self.outer(nn.functional.gelu(inner)))

    def _masses(self, sums: Tensor, queries: TokenLayout) -> Tensor:
        image, text = sums[..., :1], sums[..., 1:]
        newest = queries.images[..., None]
        stretch = torch.arange(text.shape[-1], device=text.device)
        before = (text * (stretch < newest)).sum(-1, keepdim=True)
        after = (text * (stretch == newest)).sum(-1, keepdim=True)
        return torch.cat([image, before, after], dim=-1)


class AttendedRouter(nn.Module):
    r"""Weights that grow with the main attention's mass on image tokens, zero without any.

    With mass_i the block's head-averaged attention of token i on image tokens (the paper's LAWS,
    section 2) and one parameter p_m per learner::

        g_im = tanh(softplus(p_m) mass_i)

    Where a conversation no longer attends to its image the weights become small, and before any
    image they are exactly zero. This router is not in the paper. Learners are not weighed against
    one another, so a single learner can have it too.

    tanh and not min(1, gain mass), which has no gradient where it is cut off, nor
    1 - (1 - mass)^gain, which is NaN where rounding lifts a mass above 1. softplus keeps a gain
    positive: a negative one would invert a learner.
    """

    def __init__(self, learners: tuple[str, ...]) -> None:
        super().__init__()
        self.names = learners
        for name in learners:
            # One parameter by name, so that adding a learner keeps those of the others.
            self.register_parameter(name, nn.Parameter(torch.empty(1)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Every gain is `GAIN`."""
        for parameter in self.parameters(recurse=False):
            init.constant_(parameter, math.log(math.expm1(GAIN)))

    def columns(self, keys: TokenLayout, queries: TokenLayout, dtype: torch.dtype) -> Tensor:
        """`[B, S, 1]`: is the key an image token."""
        return (keys.kind == IMAGE)[..., None].to(dtype)

    def forward(self, sums: Tensor, queries: TokenLayout, gate_mask: "GateMask") -> Tensor:
        """Weights `[B, T, M]`, float32."""
        raw = torch.cat([self._gain(name) for name in self.names])
        return gate_mask.close(torch.tanh(nn.functional.softplus(raw.float()) * sums.float()))

    def _gain(self, name: str) -> Tensor:
        gain = self._parameters[name]
        assert gain is not None, "a learner's gain is registered with a value"
        return gain


class GateMask:
    """The learners that share a token's weight: those with at least one visible key.

    Attributes:
        visible: `[B, T, M]`, 1.0 or 0.0.
    """

    def __init__(self, visible: Tensor) -> None:
        # Where no learner sees anything a softmax over nothing would be NaN: those weights are
        # dropped.
        self.closed = ~(visible | ~visible.any(-1, keepdim=True))
        self.visible = visible.float()

    def softmax(self, logits: Tensor) -> Tensor:
        """Logits `[B, T, M]` -> weights `[B, T, M]`, float32, over the learners that see a key."""
        return logits.float().masked_fill(self.closed, -torch.inf).softmax(-1) * self.visible

    def close(self, weights: Tensor) -> Tensor:
        """Weights `[B, T, M]`, zero for learners that see nothing."""
        return weights * self.visible

    def to(self, device: torch.device) -> "GateMask":
        """A copy on `device`."""
        return GateMask(self.visible.to(device) > 0)
