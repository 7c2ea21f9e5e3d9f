"""The versions of both operations that are compared, each as a function of its `inputs`."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from wings.attention.token_layout import IMAGE, TEXT

from . import flex, inputs
from .batch import layout
from .inputs import Learner, Routed
from .preset import Shape
from .row import IMAGES, ROUTED, TEXTS
from .run import Run
from .stand_in import Operations, implementations

Outputs = Tensor | tuple[Tensor, Tensor]
Function = Callable[[Routed | Learner], Outputs]
KINDS = {IMAGES: IMAGE, TEXTS: TEXT}
OPERATIONS = (ROUTED, *KINDS)


def drawn(run: Run, what: str, shape: Shape, batch: int, length: int) -> Routed | Learner:
    """Fresh inputs."""
    dtype, device = run.preset.dtype, run.device
    if what == ROUTED:
        return inputs.routed(shape, batch, length, dtype, device)
    return inputs.learner(shape, layout(shape, batch, length, device), KINDS[what], dtype)


def ours(device: torch.device) -> dict[str, Function]:
    """The implementations that `wings` has for this device, by variant."""
    return {name: function_of(one) for name, one in implementations(device).items()}


def function_of(one: Operations) -> Function:
    """Whichever of the two operations the inputs are for."""
    return lambda at: at.by(one)


def sdpa(given: Routed) -> Tensor:
    """The attention that a block of the bare language model has."""
    return scaled_dot_product_attention(given.q, given.k, given.v, is_causal=True, enable_gqa=True)


def textbook_of(given: Routed | Learner) -> Function:
    """The textbook's function of such inputs."""
    sees = given.sees()
    return lambda at: at.by_textbook(sees)


def flex_of(given: Routed | Learner) -> Function:
    """flex_attention's function of such inputs; its blocks are found once, as once a forward."""
    attention, blocks = flex.compiled(), given.flex_blocks()
    return lambda at: at.by_flex(attention, blocks)


def as_tuple(outputs: Outputs) -> tuple[Tensor, ...]:
    """One output as a tuple too."""
    return outputs if isinstance(outputs, tuple) else (outputs,)
