"""Checks before any number: operations against float64, a whole model against its textbook."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from wings import WingsForCausalLM

from .batch import BEFORE, tokens
from .model import build, step
from .preset import Shape
from .row import MODEL, WINGS
from .run import Run
from .stand_in import textbook_model

# Twice the error that plain low precision makes itself, and some rounding where that is tiny.
TIMES, ROUNDINGS = 2.0, 8.0
# Text behind the picture in a checked row: an odd number, so that no block of a kernel is full.
AFTER = 61
LAYERS = 2


def relative_error(found: Tensor, exact: Tensor) -> float:
    """|found - exact| / |exact| over all elements; not a number where one of them is none."""
    return float((found.double() - exact).norm() / exact.norm())


def budget(plain: Tensor, exact: Tensor) -> float:
    """What a fast version may err, by what the plain one of the same precision does."""
    return TIMES * relative_error(plain, exact) + ROUNDINGS * torch.finfo(plain.dtype).eps


def check_model(run: Run, shape: Shape) -> None:
    """Logits and gradients of a model of two blocks, against the textbook's in float64."""
    length = BEFORE + shape.image_tokens + AFTER
    pair = build(shape, LAYERS, length + 8, run.preset.dtype, run.device).train()
    row = tokens(shape, 2, length, run.device)
    exact_model = copy.deepcopy(pair.wings).double()
    exact_row = row | {"pixel_values": row["pixel_values"].double()}
    with textbook_model():
        exact = dict(results(exact_model, exact_row))
        del exact_model
        plain = dict(results(pair.wings, row))
    pair.forget_gradients()
    for name, found in results(pair.wings, row):
        error = relative_error(found, exact[name])
        run.checked(MODEL, WINGS, shape, name, error, budget(plain[name], exact[name]))
    pair.forget_gradients()


def results(model: WingsForCausalLM, row: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The logits, and the gradient of each part of the model as one vector."""
    with torch.no_grad():
        yield "logits", model(**row, use_cache=False).logits
    step(model, row)
    for part, weights in model.parameter_groups().items():
        if part != "vision_tower":
            yield f"gradient of {part}", torch.cat([weight.grad.flatten() for weight in weights])
