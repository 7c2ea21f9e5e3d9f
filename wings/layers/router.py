"""Routers: from the main attention's weights to one weight per learner and token."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wings.attention.token_layout import IMAGE, TEXT, TokenLayout
from wings.upstream.weights import init

HIDDEN = 16
# The attended router's initial gain: with a tenth of its attention on image tokens, a token gives
# its learners a weight of tanh(0.8) = 0.66.
GAIN = 8.0
# The initial mass at which a Hill gate is half open: between the masses on images that text turns
# (0.08 to 0.13) and picture turns (0.23 to 0.45) of a small frozen LLM had.
TAU = 0.14
# Smaller masses are rounding; their logarithm is cut off here.
SMALLEST_MASS = 1e-30


class PositionRouter(nn.Module):
    """The paper's router: logits = W a, one column of W for each key position (section 3.3).

    The head-averaged attention a enters only through W a. So each key has the M numbers of its
    position's column, and routed attention returns the logits themselves.

    Routers have `reads`: what their columns are made of, if all blocks have the same, else None.
    """

    reads: tuple[Any, ...] | None = None

    def __init__(self, learners: int, positions: int) -> None:
        super().__init__()
        self.by_position = nn.Embedding(positions, learners)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Zero: learners start with equal weight at every position."""
        init.zeros_(self.by_position.weight)

    def columns(self, keys: TokenLayout, queries: TokenLayout) -> Tensor:
        """`[B, S, M]`: W's column at each key's position.

        Padding positions are clamped; their attention weight is zero.
        """
        return self.by_position(keys.position.clamp(min=0))

    def forward(self, sums: Tensor, queries: TokenLayout, gate_mask: "GateMask") -> Tensor:
        """Weights `[B, T, M]`, float32."""
        return gate_mask.softmax(sums)


class ModalityRouter(nn.Module):
    """A router independent of length: logits = MLP(mass on three kinds of keys).

    The masses are those on items of the sense (image tokens), on text before the newest item and on
    text after it. The newest is the query's own, so nothing later matters. The masses are the
    paper's attention-shift measure (LAWS, section 2).

    Args:
        learners: how many it weighs.
        kind: of the sense's tokens, see `TokenLayout`.
    """

    def __init__(self, learners: int, kind: int) -> None:
        super().__init__()
        self.kind = kind
        self.reads: tuple[Any, ...] | None = ("modality", kind)
        self.inner = nn.Linear(3, HIDDEN)
        self.outer = nn.Linear(HIDDEN, learners)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The last layer is zero: learners start with equal weight."""
        init.normal_(self.inner.weight, std=1.0)
        init.zeros_(self.inner.bias)
        init.zeros_(self.outer.weight)
        init.zeros_(self.outer.bias)

    def columns(self, keys: TokenLayout, queries: TokenLayout) -> Tensor:
        """See `modality_columns`."""
        return modality_columns(keys, queries, self.kind)

    def forward(self, sums: Tensor, queries: TokenLayout, gate_mask: "GateMask") -> Tensor:
        """Weights `[B, T, M]`, float32."""
        masses = sums if queries.length == 1 else self._masses(sums, queries)
        inner = self.inner(masses.to(self.inner.weight.dtype))
        return gate_mask.softmax(self.outer(nn.functional.gelu(inner)))

    def _masses(self, sums: Tensor, queries: TokenLayout) -> Tensor:
        image, text = sums[..., :1], sums[..., 1:]
        newest = queries.begun[self.kind - 1][..., None]
        stretch = torch.arange(text.shape[-1], device=text.device)
        before = (text * (stretch < newest)).sum(-1, keepdim=True)
        after = (text * (stretch == newest)).sum(-1, keepdim=True)
        return torch.cat([image, before, after], dim=-1)


class AttendedRouter(nn.Module):
    r"""Weights that grow with the main attention's mass on items of a sense, zero without any.

    With mass_i the block's head-averaged attention of token i on image tokens (the paper's LAWS,
    section 2), or on those of another sense, and one parameter per learner m, the gain or the
    threshold tau::

        shape "tanh":  g_im = tanh(gain_m mass_i)                   gain_m = softplus(p_m)
        shape "hill":  g_im = 1 / (1 + (tau_m / mass_i)^power)      tau_m = exp(p_m)

    Where a conversation no longer attends to its image the weights become small, and before any
    image they are exactly zero. This router is not in the paper. Learners are not weighed against
    one another, so a single learner can have it too.

    tanh and not min(1, gain mass), which has no gradient where it is cut off, nor
    1 - (1 - mass)^gain, which is NaN where rounding lifts a mass above 1. softplus keeps a gain
    positive: a negative one would invert a learner. tanh is linear below its bend, so a third of
    the mass keeps most of the weight. The Hill function (A. V. Hill, J. Physiol. 40, 1910: the
    share of a carrier that is bound) has a threshold: 0.5 at tau, and at power 8 it is 0.004 at
    half of tau and 0.996 at twice tau.

    Args:
        learners: names of the learners, one parameter each.
        shape: `"tanh"` or `"hill"`.
        detach: the mass enters without gradient, so that training cannot open the gate by raising
            the attention to images. The parameters learn all the same.
        power: steepness of the Hill gate.
        kinds: of the tokens whose mass it reads, see `TokenLayout`.
    """

    def __init__(
        self,
        learners: tuple[str, ...],
        shape: str = "tanh",
        detach: bool = False,
        power: float = 8.0,
        kinds: tuple[int, ...] = (IMAGE,),
    ) -> None:
        super().__init__()
        self.kinds = kinds
        self.reads: tuple[Any, ...] | None = ("attended", *kinds)
        self.names, self.shape, self.detach, self.power = learners, shape, detach, power
        for name in learners:
            # One parameter by name, so that adding a learner keeps those of the others. Gains and
            # thresholds have different names: one must never be loaded as the other.
            self.register_parameter(self._key(name), nn.Parameter(torch.empty(1)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Every gain is `GAIN`, every threshold `TAU`."""
        for parameter in self.parameters(recurse=False):
            init.constant_(parameter, self._raw(TAU if self.shape == "hill" else GAIN))

    def set(self, value: float) -> None:
        """Sets every gain, or every threshold of a Hill gate."""
        with torch.no_grad():
            for parameter in self.parameters(recurse=False):
                parameter.fill_(self._raw(value))

    def values(self) -> dict[str, float]:
        """The gain, or the threshold of a Hill gate, by learner."""
        read = torch.exp if self.shape == "hill" else nn.functional.softplus
        return {name: read(self._parameter(name).float()).item() for name in self.names}

    def columns(self, keys: TokenLayout, queries: TokenLayout) -> Tensor:
        """See `attended_columns`."""
        return attended_columns(keys, self.kinds)

    def forward(
        self, sums: Tensor, queries: TokenLayout, gate_mask: "GateMask", in_kernel: bool = False
    ) -> "Tensor | list[TokenGate]":
        """Weights `[B, T, M]`, float32; or for the decode kernel what each learner's follow from.

        Both are given by a call of the module: hooks bring the parameters of offloaded blocks.
        """
        if in_kernel:
            return self._token_gates(sums, gate_mask)
        mass = (sums.detach() if self.detach else sums).float()
        raws = [self._parameter(name) for name in self.names]
        raw = (raws[0] if len(raws) == 1 else torch.cat(raws)).float()
        if self.shape == "tanh":
            return gate_mask.close(torch.tanh(nn.functional.softplus(raw) * mass))
        # A logarithm of 0 would have an infinite slope, and infinity times 0 is NaN: the clamp cuts
        # the gradient, and `where` makes the weight exactly zero.
        logits = self.power * (mass.clamp(min=SMALLEST_MASS).log() - raw)
        return gate_mask.close(torch.where(mass > 0, torch.sigmoid(logits), 0.0))

    def _token_gates(self, sums: Tensor, gate_mask: "GateMask") -> list["TokenGate"]:
        mass, power = sums[:, 0, 0], self.power if self.shape == "hill" else 0.0
        factors = gate_mask.factor[:, 0].unbind(-1)
        raws = [self._parameter(name) for name in self.names]
        return [TokenGate(*pair, mass, power) for pair in zip(factors, raws, strict=True)]

    def _key(self, name: str) -> str:
        return f"{name}_tau" if self.shape == "hill" else name

    def _raw(self, value: float) -> float:
        """The parameter of a gain or threshold."""
        return math.log(value) if self.shape == "hill" else inverse_softplus(value)

    def _parameter(self, name: str) -> Tensor:
        parameter = self._parameters[self._key(name)]
        assert parameter is not None, "a learner's gate is registered with a value"
        return parameter


class TokenGate(NamedTuple):
    """Parts of one learner's weight of one token a row, which the decode kernel computes.

    factor: `[B]`, see `GateMask`; without `raw` and `mass` it is the weight. raw: an
    `AttendedRouter`'s parameter, `[1]`. mass: `[B]`. power: of a Hill gate, 0 for a tanh gate.
    None has a gradient.
    """

    factor: Tensor
    raw: Tensor | None = None
    mass: Tensor | None = None
    power: float = 0.0


def attended_columns(keys: TokenLayout, kinds: tuple[int, ...]) -> Tensor:
    """`[B, S, 1]`, float32: is the key a token of these kinds."""
    return is_of(keys, kinds)[..., None].float()


def modality_columns(keys: TokenLayout, queries: TokenLayout, kind: int) -> Tensor:
    """`[B, S, 2 + n]`, float32: one-hot of an item, and of the n + 1 pieces of text around items.

    For a single query the three kinds are known beforehand: `[B, S, 3]`.
    """
    is_item, is_text = keys.kind == kind, keys.kind == TEXT
    begun, newest = keys.begun[kind - 1], queries.begun[kind - 1]
    if queries.length == 1:
        before, after = is_text & (begun < newest), is_text & (begun == newest)
        return torch.stack([is_item, before, after], dim=-1).float()
    stretches = torch.arange(keys.most_begun[kind - 1] + 1, device=keys.table.device)
    text = is_text[..., None] & (begun[..., None] == stretches)
    return torch.cat([is_item[..., None], text], dim=-1).float()


def is_of(layout: TokenLayout, kinds: tuple[int, ...]) -> Tensor:
    """`[B, S]` bool: tokens of one of the kinds."""
    found = layout.kind == kinds[0]
    for kind in kinds[1:]:
        found = found | (layout.kind == kind)
    return found


def inverse_softplus(value: float) -> float:
    """x with log(1 + exp(x)) = value, for a value above 0."""
    return value + math.log(-math.expm1(-value))


class GateMask:
    """The learners that share a token's weight: those with at least one visible key.

    Args:
        seen: `[B, T, M]` bool, whether a learner has a visible key.
        guard: `[B, T]` bool, tokens that the guard lets the learners act on; None for all.

    Attributes:
        closed: `[B, T, M]` bool, learners that a softmax leaves out.
        factor: `[B, T, M]`, 1.0 where a learner may act, else 0.0.
    """

    def __init__(self, seen: Tensor, guard: Tensor | None = None) -> None:
        self.seen, self.guard = seen, guard
        # Where no learner sees anything a softmax over nothing would be NaN: those weights are
        # dropped.
        self.closed = ~(seen | ~seen.any(-1, keepdim=True))
        self.factor = (seen if guard is None else seen & guard[..., None]).float()

    def softmax(self, logits: Tensor) -> Tensor:
        """Logits `[B, T, M]` -> weights `[B, T, M]`, float32, over the learners that see a key."""
        return logits.float().masked_fill(self.closed, -torch.inf).softmax(-1) * self.factor

    def close(self, weights: Tensor) -> Tensor:
        """Weights `[B, T, M]`, zero for learners that may not act."""
        return weights * self.factor

    def within(self, mask: Tensor) -> "GateMask":
        """A copy for learners that act on the tokens of `mask [B, T]` only."""
        return GateMask(self.seen, mask if self.guard is None else mask & self.guard)

    def to(self, device: torch.device) -> "GateMask":
        """A copy on `device`."""
        guard = None if self.guard is None else self.guard.to(device)
        return GateMask(self.seen.to(device), guard)
