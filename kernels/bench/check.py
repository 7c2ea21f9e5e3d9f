"""Checks before any number: operations against float64, a whole model against its textbook."""

import copy
from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import Parameter

from wings import WingsForCausalLM

from .batch import BEFORE, tokens
from .error import budget, relative_error
from .inputs import Learner, Routed
from .model import build, step
from .preset import Shape
from .row import MODEL, WINGS
from .run import Run
from .stand_in import TEXTBOOK_OPERATIONS, implementations, in_place
from .variants import OPERATIONS, Function, as_tuple, drawn, ours, textbook_of

# Text behind the picture in a checked row: an odd number, so that no block of a kernel is full.
AFTER = 61
LAYERS = 2


def check_operations(run: Run, shape: Shape) -> None:
    """Outputs and every gradient by name, on fresh numbers, against the textbook in float64."""
    length = BEFORE + shape.image_tokens + AFTER
    for what in OPERATIONS:
        given = drawn(run, what, shape, 2, length)
        book = textbook_of(given)
        outputs = as_tuple(book(given))
        gradients = [torch.randn_like(out).to(run.preset.dtype) for out in outputs]
        exact = results(book, given.exact(), gradients)
        plain = results(book, given, gradients)
        for variant, function in ours(run.device).items():
            for name, found in results(function, given, gradients).items():
                error = relative_error(found, exact[name])
                run.checked(what, variant, shape, name, error, budget(plain[name], exact[name]))


def results(
    function: Function, given: Routed | Learner, gradients: list[Tensor]
) -> dict[str, Tensor]:
    """Outputs, and the gradient of each input for these gradients of the outputs."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in given.tensors.items()}
    outputs = as_tuple(function(given.holding(leaves)))
    of_outputs = [g.to(out.dtype) for g, out in zip(gradients, outputs, strict=True)]
    found = torch.autograd.grad(outputs, list(leaves.values()), of_outputs)
    names = [f"output {number}" for number in range(len(outputs))]
    names += [f"gradient of {name}" for name in leaves]
    return dict(zip(names, (*(output.detach() for output in outputs), *found), strict=True))


def check_model(run: Run, shape: Shape) -> None:
    """Logits and gradients of a model of two blocks, against the textbook's in float64."""
    length = BEFORE + shape.image_tokens + AFTER
    pair = build(shape, LAYERS, length + 8, run.preset.dtype, run.device).train()
    row = tokens(shape, 2, length, run.device)
    exact_model = copy.deepcopy(pair.wings).double()
    exact_row = row | {"pixel_values": row["pixel_values"].double()}
    with in_place(TEXTBOOK_OPERATIONS):
        exact = dict(of_model(exact_model, exact_row))
        del exact_model
        plain = dict(of_model(pair.wings, row))
    for variant, chosen in implementations(run.device).items():
        pair.forget_gradients()
        # The first is what a model runs on its own.
        with nullcontext() if variant == WINGS else in_place(chosen):
            for name, found in of_model(pair.wings, row):
                error = relative_error(found, exact[name])
                run.checked(MODEL, variant, shape, name, error, budget(plain[name], exact[name]))


def of_model(model: WingsForCausalLM, row: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The logits, and the gradient of each part of the model as one vector."""
    with torch.no_grad():
        yield "logits", model(**row, use_cache=False).logits
    step(model, row)
    for part, weights in model.parameter_groups().items():
        if part != "vision_tower":
            yield f"gradient of {part}", torch.cat([*map(gradient, weights)])


def gradient(weight: Parameter) -> Tensor:
    """As a vector."""
    # The model sees to it that each trained weight has one after every batch.
    assert weight.grad is not None
    return weight.grad.flatten()
