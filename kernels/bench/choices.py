"""What a block fuses and what it leaves to the matrix library: each choice beside the other way.

Pieces of the torch version, each alone; the first ones stand beside the kernels of a card too.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Generic

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from wings.layers.lorra_attention import learner_attention

from wings.attention.learner_mask import masked_attention
from wings.attention.rotary import Rotation
from wings.attention.routed_attention import Rule, routed_attention
from wings.attention.source_tokens import Kept

from . import inputs
from .batch import fits, layout
from .clock import Calls
from .error import relative_error
from .inputs import Given
from .operation import Maker, allowed, backwards, forwards
from .preset import Shape
from .row import (
    AGAIN,
    BACKWARD,
    CHOSEN,
    FIRST_FACTORS,
    FURTHER_VALUES,
    LAST_FACTORS,
    MADE_AGAIN,
    MADE_AGAIN_MEMORY,
    OTHER,
    ROPE,
    SMALL_GATES,
    SPANS,
    TEXTS,
)
from .run import Place, Run
from .textbook import turned
from .variants import KINDS, Outputs

# Blocks of a decoder whose graphs are held at once where memory is compared.
FORWARDS = 8


@dataclass
class Pieces:
    """Random tensors by name, all of which have a gradient, and what goes with them."""

    tensors: dict[str, Tensor]

    def holding(self, tensors: dict[str, Tensor]) -> "Pieces":
        """The same with other tensors."""
        return Pieces(tensors)

    def __getattr__(self, name: str) -> Tensor:
        return self.tensors[name]


@dataclass(frozen=True)
class Choice(Generic[Given]):
    """Two functions of the same inputs that give the same."""

    name: str
    given: Given
    chosen: Callable[[Given], Tensor]
    other: Callable[[Given], Tensor]

    def error(self) -> float:
        """How far the other's output lies from that of the chosen one."""
        other, chosen = (forwards(way, self.given)() for way in (self.other, self.chosen))
        return relative_error(other, chosen.double())

    def calls(self, make: Maker) -> Calls:
        """What is timed: the chosen one, again, and the other."""
        ways = {CHOSEN: self.chosen, AGAIN: self.chosen, OTHER: self.other}
        return {name: make(way, self.given) for name, way in ways.items()}


def measure_choices(run: Run, shape: Shape, lengths: list[int]) -> None:
    """The other way in units of the chosen one: forward, and forward with backward."""
    for length in [length for length in lengths if fits(shape, length)]:
        for choice in choices(run, shape, length):
            budget = allowed(run.preset.dtype)
            run.checked(choice.name, OTHER, shape, "output", choice.error(), budget)
            makers: tuple[tuple[str, Maker], ...] = (("", forwards), (BACKWARD, backwards))
            for suffix, make in makers:
                place = Place(choice.name + suffix, shape, 1, length)
                run.time(place, choice.calls(make), whole=False)
            if choice.name == MADE_AGAIN and run.is_checked(MADE_AGAIN, OTHER, shape):
                calls = choice.calls(several)
                del calls[AGAIN]
                place = Place(MADE_AGAIN_MEMORY, shape, 1, length)
                run.measure_memory(place, calls, lambda: None)


def several(function: Callable[[Given], Outputs], given: Given) -> Callable[[], object]:
    """A call that holds what so many forwards keep for their backward, as blocks do."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in given.tensors.items()}
    return lambda: [function(given.holding(leaves)) for _ in range(FORWARDS)]


def choices(
    run: Run, shape: Shape, length: int
) -> Iterator[Choice[Pieces] | Choice[inputs.Learner] | Choice[inputs.Routed]]:
    """All that the device has to choose between."""
    dtype, device = run.preset.dtype, run.device
    learner = inputs.learner(shape, layout(shape, 1, length, device), KINDS[TEXTS], dtype)
    x, part, a, b = learner.x, learner.inner, learner.a_o, learner.b_q
    gate = torch.rand(1, length, 1, dtype=dtype, device=device)
    a2, b2, p2 = (torch.randn_like(tensor) for tensor in (a, b, part))
    yield Choice(
        FIRST_FACTORS,
        Pieces({"x": x, "a1": a, "a2": a2}),
        lambda at: at.x @ torch.cat([at.a1, at.a2], dim=-1),
        lambda at: torch.cat([at.x @ at.a1, at.x @ at.a2], dim=-1),
    )
    yield Choice(
        LAST_FACTORS,
        Pieces({"p1": part, "p2": p2, "b1": b, "b2": b2}),
        lambda at: torch.cat([at.p1, at.p2], dim=-1) @ torch.cat([at.b1, at.b2]),
        lambda at: at.p1 @ at.b1 + at.p2 @ at.b2,
    )
    yield Choice(
        SMALL_GATES,
        Pieces({"part": part, "b": b, "gate": gate}),
        lambda at: (at.part * at.gate) @ at.b,
        lambda at: (at.part @ at.b) * at.gate,
    )
    if device.type == "cuda":
        return
    yield Choice(ROPE, Pieces({"x": x}), *ways_to_turn(learner.rotation))
    if learner.source.visibility.mask is None:
        yield Choice(SPANS, learner, attend, attend_masked)
        yield Choice(MADE_AGAIN, learner, make_again, keep)
    routed = inputs.routed(shape, 1, length, dtype, device)
    yield Choice(FURTHER_VALUES, routed, sums_by_values, sums_by_attention)


def ways_to_turn(
    rotation: Rotation,
) -> tuple[Callable[[Pieces], Tensor], Callable[[Pieces], Tensor]]:
    """Rope of `x [B, T, D]` as heads: in place by halves, and by halves joined anew."""
    tables = rotation.cos, rotation.sin

    def by_halves(at: Pieces) -> Tensor:
        return rotation(at.x.unflatten(-1, (-1, rotation.width))).transpose(1, 2)

    def joined(at: Pieces) -> Tensor:
        return turned(at.x.unflatten(-1, (-1, rotation.width)).transpose(1, 2), tables)

    return by_halves, joined


def heads_of(at: inputs.Learner) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, and the rows as keys and as values, `[B, ..., H, d]`."""
    q, rows = (rows.unflatten(-1, (at.heads, -1)) for rows in (at.x, at.source.rows))
    return q, rows, rows


def attend(at: inputs.Learner) -> Tensor:
    """A learner's attention in spans, without a mask."""
    return at.source.visibility.attend(*heads_of(at), at.a_o)


def attend_masked(at: inputs.Learner) -> Tensor:
    """The same in one call with a mask."""
    return masked_attention(*heads_of(at), at.a_o, at.sees())


def make_again(at: inputs.Learner) -> Tensor:
    """A learner whose backward makes keys and values again."""
    source = replace(at.source, remakes=True)
    return learner_attention(at.x, at.inner, source, Kept(at.small), at.factors, at.rotation)


def keep(at: inputs.Learner) -> Tensor:
    """The same, and autograd keeps them."""
    source = replace(at.source, remakes=False)
    return learner_attention(at.x, at.inner, source, Kept(at.small), at.factors, at.rotation)


def sums_by_values(at: inputs.Routed) -> Tensor:
    """Routed attention's output and sums side by side, `[B, T, H e + C]`."""
    out, sums = routed_attention(at.q, at.k, at.v, at.columns, Rule(None, at.scale))
    return torch.cat([out.flatten(2), sums], dim=-1)


def sums_by_attention(at: inputs.Routed) -> Tensor:
    """The same with a second attention for the sums, so that nothing of the first is widened."""
    missing = at.v.shape[-1] - at.columns.shape[-1]
    columns = torch.nn.functional.pad(at.columns, (0, missing))
    columns = columns[:, None].expand(-1, at.k.shape[1], -1, -1)
    out, sums = (
        scaled_dot_product_attention(
            at.q, at.k, values, is_causal=True, scale=at.scale, enable_gqa=True
        )
        for values in (at.v, columns)
    )
    sums = sums[..., : at.columns.shape[-1]].mean(1)
    return torch.cat([out.transpose(1, 2).flatten(2), sums], dim=-1)
