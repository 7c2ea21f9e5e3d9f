"""Both operations alone, timed against the causal SDPA of a block of the bare language model."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from . import floor, inputs
from .batch import COLUMNS, causal_pairs, fits, sources
from .error import relative_error
from .inputs import Given, Learner, Routed
from .preset import Shape
from .row import AGAIN, BACKWARD, FLEX, ROUTED, SDPA, TEXTBOOK, WINGS
from .run import Place, Run
from .variants import (
    KINDS,
    OPERATIONS,
    Function,
    Outputs,
    as_tuple,
    drawn,
    flex_of,
    ours,
    sdpa,
    textbook_of,
)
from .whole import free_bytes

# Bytes of the textbook's matrices per head and pair, those that autograd keeps and those in use.
MATRIX_BYTES = 24

Result = TypeVar("Result")


class Maker(Protocol):
    """Makes a call that can be timed, of a function and its inputs."""

    def __call__(
        self, function: Callable[[Given], Outputs], given: Given
    ) -> Callable[[], object]: ...


def measure_operations(
    run: Run, shape: Shape, lengths: list[int], batches: tuple[int, ...]
) -> None:
    """Forward, and forward with backward, at `lengths`, for each number of rows."""
    for length in lengths:
        for batch in batches if fits(shape, length) else ():
            for what in OPERATIONS:
                given = drawn(run, what, shape, batch, length)
                functions, skipped = ours(run.device), {}
                needed = MATRIX_BYTES * batch * shape.heads * length**2
                if needed <= 0.6 * free_bytes(run.device):
                    functions[TEXTBOOK] = textbook_of(given)
                else:
                    skipped[TEXTBOOK] = f"its matrices need about {needed / 1e9:.0f} GB"
                measure(run, what, shape, given, functions, skipped)


def measure_flex(run: Run, shape: Shape) -> None:
    """The same of flex_attention, which takes long to compile, at the run's lengths for it."""
    for length in run.preset.flex:
        for what in OPERATIONS if fits(shape, length) else ():
            if run.is_late:
                run.console.print(f"flex_attention, {what}, {length}: the run's time was up")
                continue
            given = drawn(run, what, shape, 1, length)
            function = flex_of(given)
            check_flex(run, what, shape, function, ours(run.device)[WINGS], given)
            measure(run, what, shape, given, {FLEX: function}, {})


def measure(
    run: Run,
    what: str,
    shape: Shape,
    given: Routed | Learner,
    functions: dict[str, Function],
    skipped: dict[str, str],
) -> None:
    """Versions of one operation at one length, beside SDPA."""
    if isinstance(given, Routed):
        batch, _, length, _ = given.q.shape
        main = given
    else:
        batch, length, _ = given.x.shape
        dtype, device = run.preset.dtype, run.device
        main = inputs.routed(shape, batch, length, dtype, device)
    forward, backward = works(shape, what, batch, length, run.preset.dtype.itemsize)
    both = forward + backward
    makers: tuple[tuple[str, floor.Work, Maker], ...] = (
        ("", forward, forwards),
        (BACKWARD, both, backwards),
    )
    for suffix, work, make in makers:
        calls = {SDPA: make(sdpa, main)}
        if WINGS in functions:
            calls[AGAIN] = make(sdpa, main)
        calls |= {name: make(function, given) for name, function in functions.items()}
        place = Place(what + suffix, shape, batch, length)
        run.time(place, calls, whole=False, work=work, skipped=skipped)


def check_flex(
    run: Run, what: str, shape: Shape, function: Function, ours: Function, given: Routed | Learner
) -> None:
    """Whether it does the same job: its output beside ours, whose check came before."""
    try:
        found = as_tuple(forwards(function, given)())[0]
    # A refusal, in an error of any class; timing it will meet it again and say so.
    except Exception:
        return
    expected = as_tuple(forwards(ours, given)())[0]
    error = relative_error(found, expected.double())
    run.checked(what, FLEX, shape, "output", error, allowed(found.dtype))


def allowed(dtype: torch.dtype) -> float:
    """How far two versions in one dtype may lie apart and still be the same function."""
    return 1e-4 if dtype == torch.float32 else 3e-2


def forwards(function: Callable[[Given], Result], given: Given) -> Callable[[], Result]:
    """A call without gradients."""

    def call() -> Result:
        with torch.no_grad():
            return function(given)

    return call


def backwards(function: Callable[[Given], Outputs], given: Given) -> Callable[[], object]:
    """A call with every gradient that it can have, of random gradients of its outputs."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in given.tensors.items()}
    given = given.holding(leaves)
    gradients: list[Tensor] = []

    def call() -> object:
        outputs = as_tuple(function(given))
        if not gradients:
            gradients.extend(torch.randn_like(output) for output in outputs)
        return torch.autograd.grad(outputs, list(leaves.values()), gradients, allow_unused=True)

    return call


def works(
    shape: Shape, what: str, batch: int, length: int, size: int
) -> tuple[floor.Work, floor.Work]:
    """Work of the forward and of the backward, for elements of `size` bytes."""
    if what == ROUTED:
        at = floor.Attended(batch, length, length, causal_pairs(length), size)
        form = (shape.heads, shape.key_heads, shape.head_width, COLUMNS)
        return floor.routed_attention(at, *form), floor.routed_attention_backward(at, *form)
    keys, pairs = sources(shape, length)[list(KINDS).index(what)]
    at = floor.Attended(batch, length, keys, pairs, size)
    return floor.learner_attention(at, shape), floor.learner_attention_backward(at, shape)
