"""The versions of both operations that are compared, each as a function of its `inputs`."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from wings.layout import IMAGE, TEXT
from wings.routed_attention import Rule
from wings.source import Kept

from . import flex, inputs, textbook
from .batch import layout
from .inputs import Learner, Routed
from .preset import Shape
from .row import IMAGES, ROUTED, TEXTS
from .run import Run
from .stand_in import Operations, implementations

Function = Callable[[Routed], object] | Callable[[Learner], object]
KINDS = {IMAGES: IMAGE, TEXTS: TEXT}
OPERATIONS = (ROUTED, *KINDS)


def drawn(run: Run, what: str, shape: Shape, batch: int, length: int) -> Routed | Learner:
    """Fresh inputs."""
    dtype, device = run.preset.dtype, run.device
    if what == ROUTED:
        return inputs.routed(shape, batch, length, dtype, device)
    return inputs.learner(shape, layout(shape, batch, length, device), KINDS[what], dtype)


def ours(device: torch.device, what: str) -> dict[str, Function]:
    """The implementations that `wings` has for this device, by variant."""

    def function(one: Operations) -> Function:
        if what == ROUTED:
            return lambda at: one.routed_attention(
                at.q, at.k, at.v, at.columns, Rule(None, at.scale)
            )
        return lambda at: one.learner_attention(
            at.x, at.inner, at.source, Kept(at.small), at.factors, at.rotation
        )

    return {name: function(one) for name, one in implementations(device).items()}


def sdpa(given: Routed) -> Tensor:
    """The attention that a block of the bare language model has."""
    return scaled_dot_product_attention(given.q, given.k, given.v, is_causal=True, enable_gqa=True)


def textbook_of(given: Routed | Learner) -> Function:
    """The textbook's function of such inputs."""
    sees = given.sees()
    if isinstance(given, Routed):
        return lambda at: textbook.routed_attention(at.q, at.k, at.v, at.columns, sees, at.scale)
    return lambda at: textbook.learner_attention(*learner_arguments(at), sees)


def flex_of(given: Routed | Learner) -> Function:
    """flex_attention's function of such inputs; its blocks are found once, as once a forward."""
    attention = flex.compiled()
    if isinstance(given, Routed):
        place = torch.arange(given.q.shape[2], device=given.q.device).expand(given.q.shape[0], -1)
        causal = flex.blocks(place, place)
        return lambda at: flex.routed_attention(
            attention, at.q, at.k, at.v, at.columns, causal, at.scale
        )
    mask = flex.blocks(given.source.visibility.queries.position, given.source.keys.visible_from)
    return lambda at: flex.learner_attention(attention, *learner_arguments(at), mask)


def learner_arguments(at: Learner) -> tuple:
    """All but the visibility, as plain tensors."""
    turns = [(turn.cos, turn.sin) for turn in (at.rotation, at.source.rotation)]
    return at.x, at.inner, at.source.rows, at.small, at.factors, at.heads, *turns


def as_tuple(outputs: object) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)
