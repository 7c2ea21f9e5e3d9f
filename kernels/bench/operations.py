"""Both operations alone: checks against float64, times, and the choices made inside of a block."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from wings.attention.learner_attention import apply_rope, attend, masked_attention

from . import roofline
from .inputs import Inputs, LearnerInputs, RoutedInputs, operation_inputs, routed_inputs
from .measure import Calls, budget, free_bytes, relative_error, tolerance
from .run import (
    AGAIN,
    BACKWARD,
    CHOSEN,
    DESCRIPTORS,
    FLEX,
    OPERATIONS,
    OTHER,
    ROUTED,
    SDPA,
    TEXTBOOK,
    TEXTS,
    WINGS,
    Place,
    Run,
)
from .setting import BEFORE, COLUMNS, Shape, causal_pairs
from .versions import (
    Outputs,
    Version,
    can_load_by_descriptors,
    flex,
    impls,
    learner,
    rotated,
    sdpa,
    textbook,
    wings,
    with_descriptors,
)

# Text after the image in a checked row; odd, so that no block of a kernel is full.
AFTER = 61
# Bytes per head and pair of the textbook's matrices: those that autograd saves and temporaries.
MATRIX_BYTES = 24
# Blocks of a decoder whose graphs exist at once where memory is compared.
FORWARDS = 8

SEPARATE_A = "x A of each learner alone, not joined"
SEPARATE_B = "B_o of each learner alone, not joined"
SMALL_GATES = "gates on r numbers, not on D"
ROPE = "rope in place, not joined halves"
SEGMENTS = "segments without a mask, not one masked call"
COLUMNS_AS_VALUES = "columns as further values, not a second attention"
RECOMPUTED = "keys and values recomputed in backward, not saved"
RECOMPUTED_MEMORY = f"{RECOMPUTED}: memory of {FORWARDS} forwards"
CHOICES = (
    SEPARATE_A, SEPARATE_B, SMALL_GATES, ROPE, SEGMENTS, COLUMNS_AS_VALUES, RECOMPUTED,
    RECOMPUTED_MEMORY,
)  # fmt: skip

Make = Callable[[Version, Any], Callable[[], object]]


def check_operations(run: Run, shape: Shape) -> None:
    """Outputs and every gradient on fresh numbers, against the textbook in float64."""
    length = BEFORE + shape.image_tokens + AFTER
    for what in OPERATIONS:
        given = operation_inputs(what, shape, 2, length, run.preset.dtype, run.device)
        gradients = [torch.randn_like(out) for out in as_tuple(textbook(given))]
        exact = results(textbook, given.double(), gradients)
        plain = results(textbook, given, gradients)
        for variant, version in versions_of(what, run.device).items():
            for name, result in results(version, given, gradients).items():
                error, limit = relative_error(result, exact[name]), budget(plain[name], exact[name])
                run.check(what, variant, shape, name, error, limit)


def versions_of(what: str, device: torch.device) -> dict[str, Version]:
    """The project's versions of an operation on a device."""
    versions = {name: wings(impl) for name, impl in impls(device).items()}
    if what == ROUTED and can_load_by_descriptors(device):
        versions[DESCRIPTORS] = with_descriptors(versions[WINGS])
    return versions


def results(version: Version, given: Inputs, gradients: list[Tensor]) -> dict[str, Tensor]:
    """Outputs, and the gradient of each input for these gradients of the outputs."""
    leaves = with_gradients(given)
    outputs = as_tuple(version(leaves))
    of_outputs = [g.to(out.dtype) for g, out in zip(gradients, outputs, strict=True)]
    found = torch.autograd.grad(outputs, list(leaves.tensors.values()), of_outputs)
    names = [f"output {number}" for number in range(len(outputs))]
    names += [f"gradient of {name}" for name in leaves.tensors]
    return dict(zip(names, (*(output.detach() for output in outputs), *found), strict=True))


def measure_operations(
    run: Run, shape: Shape, lengths: list[int], batches: tuple[int, ...]
) -> None:
    """Forward, and forward with backward, at `lengths` for each batch size."""
    for length in filter(shape.fits, lengths):
        for batch in batches:
            for what in OPERATIONS:
                given = operation_inputs(what, shape, batch, length, run.preset.dtype, run.device)
                versions = versions_of(what, run.device)
                skipped = {}
                needed = MATRIX_BYTES * batch * shape.heads * length**2
                if needed <= 0.6 * free_bytes(run.device):
                    versions[TEXTBOOK] = textbook
                else:
                    skipped[TEXTBOOK] = f"its matrices need about {needed / 1e9:.0f} GB"
                measure(run, Place(what, shape, batch, length), given, versions, skipped)


def measure_flex(run: Run, shape: Shape) -> None:
    """Times flex_attention, which takes long to compile, at the lengths of `flex`."""
    for length in filter(shape.fits, run.preset.flex):
        for what in OPERATIONS:
            if run.is_late:
                run.left_out.append(f"flex_attention, {what}, {length}")
                continue
            given = operation_inputs(what, shape, 1, length, run.preset.dtype, run.device)
            version = flex(given)
            ours = wings(impls(run.device)[WINGS])
            try:
                out = as_tuple(forwards(version, given)())[0]
            # torch may refuse it, in an error of any class; timing it will record the reason.
            except Exception:
                pass
            else:
                error = relative_error(out, as_tuple(forwards(ours, given)())[0].double())
                run.check(what, FLEX, shape, "output", error, tolerance(out.dtype))
            measure(run, Place(what, shape, 1, length), given, {FLEX: version}, {})


def measure(
    run: Run, place: Place, given: Inputs, versions: dict[str, Version], skipped: dict[str, str]
) -> None:
    """Versions of one operation at one size, in units of causal SDPA."""
    shape, batch, length = place.shape, place.batch, place.length
    main = given
    if not isinstance(given, RoutedInputs):
        main = routed_inputs(shape, batch, length, run.preset.dtype, run.device)
    forward, backward = work(place, run.preset.dtype.itemsize)
    kinds: tuple[tuple[str, roofline.Work, Make], ...] = (
        ("", forward, forwards),
        (BACKWARD, forward + backward, backwards),
    )
    for suffix, needed, make in kinds:
        calls = {SDPA: make(sdpa, main)}
        if WINGS in versions:
            calls[AGAIN] = make(sdpa, main)
        calls |= {name: make(version, given) for name, version in versions.items()}
        where = replace(place, what=place.what + suffix)
        run.time(where, calls, whole=False, work=needed, skipped=skipped)


def work(place: Place, size: int) -> tuple[roofline.Work, roofline.Work]:
    """Work of the forward and of the backward, for elements of `size` bytes."""
    shape, batch, length = place.shape, place.batch, place.length
    if place.what == ROUTED:
        at = roofline.Attended(batch, length, length, causal_pairs(length), size)
        heads, groups = shape.heads, shape.key_heads
        return roofline.routed_attention(at, heads, groups, shape.head_width, COLUMNS)
    keys, pairs = shape.learner_sizes(length)[OPERATIONS.index(place.what) - 1]
    return roofline.lorra_attention(roofline.Attended(batch, length, keys, pairs, size), shape)


def forwards(version: Version, given: Any) -> Callable[[], Outputs]:
    """A call without gradients."""

    def call() -> Outputs:
        with torch.no_grad():
            return version(given)

    return call


def backwards(version: Version, given: Inputs) -> Callable[[], object]:
    """A call with the gradients of all inputs, for random gradients of its outputs."""
    leaves = with_gradients(given)
    gradients: list[Tensor] = []

    def call() -> object:
        outputs = as_tuple(version(leaves))
        if not gradients:
            gradients.extend(torch.randn_like(output) for output in outputs)
        inputs = list(leaves.tensors.values())
        return torch.autograd.grad(outputs, inputs, gradients, allow_unused=True)

    return call


def several(version: Version, given: Inputs) -> Callable[[], object]:
    """A call that holds what `FORWARDS` forwards save for their backward, as blocks do."""
    leaves = with_gradients(given)
    return lambda: [version(leaves) for _ in range(FORWARDS)]


def with_gradients(given: Inputs) -> Any:
    """The inputs with leaves that require gradients."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in given.tensors.items()}
    return replace(given, tensors=leaves)


def as_tuple(outputs: Outputs) -> tuple[Tensor, ...]:
    """The outputs as a tuple, also if there is one."""
    return outputs if isinstance(outputs, tuple) else (outputs,)


@dataclass(frozen=True)
class Choice:
    """Two functions of the same inputs with the same result."""

    name: str
    given: Inputs
    chosen: Version
    other: Version

    def calls(self, make: Make) -> Calls:
        """Calls to time: the chosen one, the same again, and the alternative."""
        versions = {CHOSEN: self.chosen, AGAIN: self.chosen, OTHER: self.other}
        return {name: make(version, self.given) for name, version in versions.items()}


def measure_choices(run: Run, shape: Shape, lengths: tuple[int, ...]) -> None:
    """Each alternative in units of the chosen way: forward, and forward with backward."""
    for length in filter(shape.fits, lengths):
        for choice in choices(run, shape, length):
            other, chosen = (
                forwards(version, choice.given)() for version in (choice.other, choice.chosen)
            )
            error = relative_error(as_tuple(other)[0], as_tuple(chosen)[0].double())
            run.check(choice.name, OTHER, shape, "output", error, tolerance(run.preset.dtype))
            kinds: tuple[tuple[str, Make], ...] = (("", forwards), (BACKWARD, backwards))
            for suffix, make in kinds:
                place = Place(choice.name + suffix, shape, 1, length)
                run.time(place, choice.calls(make), whole=False)
            if choice.name == RECOMPUTED and run.has_passed(RECOMPUTED, OTHER, shape):
                calls = choice.calls(several)
                del calls[AGAIN]
                run.measure_memory(Place(RECOMPUTED_MEMORY, shape, 1, length), calls)


def choices(run: Run, shape: Shape, length: int) -> Iterator[Choice]:
    """All choices that the device has; the later ones are about the torch version only."""
    dtype, device = run.preset.dtype, run.device
    given = operation_inputs(TEXTS, shape, 1, length, dtype, device)
    assert isinstance(given, LearnerInputs)
    x, part, a, b = given.x, given.query_part, given.a_o, given.b_q
    gate = torch.rand(1, length, 1, dtype=dtype, device=device)
    a2, b2, part2 = (torch.randn_like(tensor) for tensor in (a, b, part))
    yield Choice(
        SEPARATE_A,
        Inputs({"x": x, "a1": a, "a2": a2}),
        lambda at: torch.cat([at.x @ at.a1, at.x @ at.a2], dim=-1),
        lambda at: at.x @ torch.cat([at.a1, at.a2], dim=-1),
    )
    yield Choice(
        SEPARATE_B,
        Inputs({"p1": part, "p2": part2, "b1": b, "b2": b2}),
        lambda at: at.p1 @ at.b1 + at.p2 @ at.b2,
        lambda at: torch.cat([at.p1, at.p2], dim=-1) @ torch.cat([at.b1, at.b2]),
    )
    yield Choice(
        SMALL_GATES,
        Inputs({"part": part, "b": b, "gate": gate}),
        lambda at: (at.part * at.gate) @ at.b,
        lambda at: (at.part @ at.b) * at.gate,
    )
    if device.type == "cuda":
        return
    rope, heads = given.rope, (given.heads, -1)
    yield Choice(
        ROPE,
        Inputs({"x": x}),
        lambda at: apply_rope(at.x.unflatten(-1, heads), rope).transpose(1, 2),
        lambda at: rotated(at.x.unflatten(-1, heads).transpose(1, 2), rope.table),
    )
    if given.mask.segments:
        yield Choice(SEGMENTS, given, in_segments, in_one_masked_call)
        yield Choice(RECOMPUTED, given, recomputing, saving)
    routed = routed_inputs(shape, 1, length, dtype, device)
    yield Choice(COLUMNS_AS_VALUES, routed, columns_as_values, columns_alone)


def in_segments(at: LearnerInputs) -> Tensor:
    """A learner's attention without its low-rank parts, in segments without a mask."""
    q, source = (x.unflatten(-1, (at.heads, -1)) for x in (at.x, at.tensors["tokens"]))
    return attend(q, source, source, at.a_o, at.mask, at.rope, at.key_rope)


def in_one_masked_call(at: LearnerInputs) -> Tensor:
    """The operation in one call with a mask."""
    q, source = (x.unflatten(-1, (at.heads, -1)) for x in (at.x, at.tensors["tokens"]))
    q, k = apply_rope(q, at.rope), apply_rope(source, at.key_rope)
    return masked_attention(q, k, source, at.a_o, at.visible)


def recomputing(at: LearnerInputs) -> Tensor:
    """A learner that recomputes keys and values in its backward."""
    return learner(at, recompute_kv=True)


def saving(at: LearnerInputs) -> Tensor:
    """A learner that saves keys and values for its backward."""
    return learner(at, recompute_kv=False)


def columns_as_values(at: RoutedInputs) -> Tensor:
    """Output and sums of routed attention, joined: `[B, T, H e + C]`."""
    out, sums = as_tuple(wings("torch")(at))
    return torch.cat([out.flatten(2), sums], dim=-1)


def columns_alone(at: RoutedInputs) -> Tensor:
    """The operation with a second attention for the sums, so that the values are not widened."""
    columns = pad(at.columns, (0, at.v.shape[-1] - at.columns.shape[-1]))
    columns = columns[:, None].expand(-1, at.k.shape[1], -1, -1)
    out, sums = (
        scaled_dot_product_attention(
            at.q, at.k, values, is_causal=True, scale=at.scale, enable_gqa=True
        )
        for values in (at.v, columns)
    )
    sums = sums[..., : at.columns.shape[-1]].mean(1)
    return torch.cat([out.transpose(1, 2).flatten(2), sums], dim=-1)
