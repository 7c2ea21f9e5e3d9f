"""Whole models: a model with wings in units of the bare LLM that is inside of it."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import Cache, LlamaConfig, PreTrainedModel, StaticCache

from wings import WingsConfig, WingsForCausalLM, WingsStaticCache
from wings.upstream.cache_name import cache_name, cache_of

from .alternatives import SMALL_TOWER, Alternative, build_alternatives, wake
from .counts import decode_floor
from .inputs import as_text, tokens
from .measure import Calls, budget, relative_error
from .operations import AFTER
from .roofline import kernel_step_ratio, step_ratio
from .run import (
    AGAIN,
    BARE,
    COMPILED,
    DECODING,
    FORWARD,
    MEMORY,
    MODEL,
    RECORDED,
    STEP,
    WINGS,
    Place,
    Run,
    first_line,
)
from .setting import BEFORE, PATCH, Shape
from .versions import impls

# A tower so small that its cost hides nothing; only its number of patches matters.
TOWER = {"patch_size": PATCH, **SMALL_TOWER}
CHECKED_LAYERS = 2
# Passes before a CUDA graph is recorded, in which libraries allocate what they keep.
WARM_UPS = 3


@dataclass
class Pair:
    """A model with wings, and the bare LLM with the same weights."""

    wings: WingsForCausalLM
    bare: PreTrainedModel

    def train(self) -> "Pair":
        """Trains everything but the vision tower."""
        self.wings.train().requires_grad_(True)
        self.wings.model.vision_tower.requires_grad_(False)
        self.bare.train().requires_grad_(True)
        return self

    def clear_gradients(self) -> None:
        """Sets all gradients to None."""
        self.wings.zero_grad(set_to_none=True)
        self.bare.zero_grad(set_to_none=True)

    def versions(self, device: torch.device, make: Callable[[], Callable[[], None]]) -> Calls:
        """A call of the model for each `impl` of the device, by variant; `make` gives the call."""

        def version(impl: str) -> Callable[[], None]:
            call = make()

            def run() -> None:
                self.wings.impl = impl
                call()

            return run

        return {variant: version(impl) for variant, impl in impls(device).items()}


def build(run: Run, shape: Shape, layers: int, positions: int) -> Pair:
    """Models with random weights, none of them zero, for rows of up to `positions` tokens."""
    text = LlamaConfig(
        hidden_size=shape.width,
        num_hidden_layers=layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        intermediate_size=shape.inner,
        vocab_size=shape.vocabulary,
        max_position_embeddings=positions,
        tie_word_embeddings=False,
    )
    config = WingsConfig(
        text_config=text,
        vision_config={"vision_cfg": {"image_size": shape.pixels, **TOWER}},
        rank=shape.rank,
        router_positions=positions,
    )
    with defaults(run.preset.dtype, run.device):
        wings = WingsForCausalLM(config).eval()
        bare = wings.extract_language_model()
    # "triton" fails where a kernel cannot run, so that no figure gets a wrong name.
    wings.impl = impls(run.device)[WINGS]
    wake(wings)
    return Pair(wings, bare)


@contextmanager
def defaults(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Sets dtype and device of new tensors, as drawing large weights on a CPU takes minutes."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)


def train_step(model: PreTrainedModel, batch: dict[str, Tensor]) -> None:
    """Forward with labels, and backward. No optimizer, which costs the same for both models."""
    model(**batch, use_cache=False).loss.backward()


def check_model(run: Run, shape: Shape) -> None:
    """Logits and gradients of a model of two blocks, against the same model in float64.

    Kernels may err as much as twice the torch version, and that version within its `tolerance`.
    """
    length = BEFORE + shape.image_tokens + AFTER
    pair = build(run, shape, CHECKED_LAYERS, length + 8).train()
    row = tokens(shape, 2, length, run.device)
    exact_model = copy.deepcopy(pair.wings).double()
    exact_model.impl = "torch"
    exact = dict(model_results(exact_model, row | {"pixel_values": row["pixel_values"].double()}))
    del exact_model
    pair.wings.impl = "torch"
    plain = dict(model_results(pair.wings, row))
    for variant, impl in impls(run.device).items():
        pair.clear_gradients()
        pair.wings.impl = impl
        for name, result in model_results(pair.wings, row):
            limit = budget(plain[name], exact[name])
            if impl == "torch":
                limit = model_tolerance(run.preset.dtype)
            run.check(MODEL, variant, shape, name, relative_error(result, exact[name]), limit)


def model_tolerance(dtype: torch.dtype) -> float:
    """The largest relative error of a correct model of `CHECKED_LAYERS` blocks in this dtype."""
    return 1e-5 if dtype == torch.float32 else 0.1


def model_results(model: WingsForCausalLM, row: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The logits, and the gradient of each part of the model as one vector."""
    with torch.no_grad():
        yield "logits", model(**row, use_cache=False).logits
    train_step(model, row)
    for part, weights in model.parameter_groups().items():
        if part != "vision_tower":
            # Every trained weight has a gradient in every batch.
            gradients = [weight.grad.flatten() for weight in weights if weight.grad is not None]
            assert len(gradients) == len(weights), f"{part} has weights without a gradient"
            yield f"gradient of {part}", torch.cat(gradients)


def measure_models(run: Run, shape: Shape, lengths: list[int], batches: tuple[int, ...]) -> None:
    """Forward, training step and its memory at `lengths`, for each batch size."""
    if not lengths:
        return
    pair = build(run, shape, shape.layers, max(lengths)).train()
    with defaults(run.preset.dtype, run.device):
        others = build_alternatives(shape, shape.layers, max(lengths), impls(run.device)[WINGS])
    for other in others.values():
        other.train()
    for length in lengths:
        if not shape.fits(length):
            run.console.print(f"{length} tokens: {shape.image_tokens} of an image do not fit")
            continue
        for batch in batches:
            measure_length(run, pair, others, shape, batch, length)


def measure_length(
    run: Run, pair: Pair, others: dict[str, Alternative], shape: Shape, batch: int, length: int
) -> None:
    """One length and batch size."""
    row = tokens(shape, batch, length, run.device)
    text = as_text(shape, row)

    def forward_bare() -> None:
        with torch.no_grad():
            pair.bare(text["input_ids"], use_cache=False)

    def forward_wings() -> None:
        with torch.no_grad():
            pair.wings(row["input_ids"], pixel_values=row["pixel_values"], use_cache=False)

    def step_bare() -> None:
        train_step(pair.bare, text)

    def step_wings() -> None:
        train_step(pair.wings, row)

    def forward_other(other: Alternative, inputs: dict[str, Tensor]) -> None:
        with torch.no_grad():
            other.model(
                **{name: inputs[name] for name in inputs if name != "labels"}, use_cache=False
            )

    def clear_gradients() -> None:
        pair.clear_gradients()
        for other in others.values():
            other.model.zero_grad(set_to_none=True)

    inputs = {name: other.inputs(row) for name, other in others.items()}
    steps: Calls = {BARE: step_bare, **pair.versions(run.device, lambda: step_wings)}
    steps |= {n: partial(train_step, others[n].model, inputs[n]) for n in others}
    if length in run.preset.lengths:
        calls: Calls = {BARE: forward_bare, AGAIN: forward_bare}
        calls |= pair.versions(run.device, lambda: forward_wings)
        calls |= {n: partial(forward_other, others[n], inputs[n]) for n in others}
        run.time(Place(FORWARD, shape, batch, length), calls)
        on_card = run.device.type == "cuda"
        count = kernel_step_ratio if on_card else step_ratio
        run.time(
            Place(STEP, shape, batch, length), {BARE: step_bare, AGAIN: step_bare, **steps},
            before=clear_gradients, floor=count(shape, length),
        )  # fmt: skip
    if length in run.preset.memory:
        run.measure_memory(Place(MEMORY, shape, batch, length), steps, clear_gradients)
    clear_gradients()


def measure_decoding(run: Run, shape: Shape) -> None:
    """One more token, again and again, after each number of cached tokens."""
    positions = max(run.preset.contexts) + run.preset.steps + 8
    pair = build(run, shape, shape.decoding_layers, positions)
    with defaults(run.preset.dtype, run.device):
        others = build_alternatives(
            shape, shape.decoding_layers, positions, impls(run.device)[WINGS]
        )
    for context in filter(shape.fits, run.preset.contexts):
        row = tokens(shape, 1, context, run.device)
        text = {"input_ids": as_text(shape, row)["input_ids"]}
        image = {name: row[name] for name in ("input_ids", "pixel_values")}
        token = text["input_ids"][:, -1:]
        bare, again = (decoder(pair.bare, token, prefill(pair.bare, text)) for _ in range(2))

        def wings(token: Tensor = token, image: dict[str, Tensor] = image) -> Callable[[], None]:
            return decoder(pair.wings, token, prefill(pair.wings, image))

        calls = {BARE: bare, AGAIN: again, **pair.versions(run.device, wings)}
        for name, other in others.items():
            given = {key: value for key, value in other.inputs(row).items() if key != "labels"}
            calls[name] = decoder(other.model, token, prefill(other.model, given))
        place = Place(DECODING, shape, 1, context)
        # Counted first: all caches have the same number of tokens then.
        run.count(place, calls, decode_floor(shape, context, run.preset.dtype.itemsize))
        run.time(place, calls, rounds=run.preset.steps)


def measure_static_decoding(run: Run, shape: Shape) -> None:
    """Decoding with static caches: one CUDA graph per step on a GPU, compiled on a CPU.

    This comes last in a run, as a recording that fails can leave a GPU in an undefined state.
    """
    what, prepare = RECORDED, record
    if run.device.type != "cuda":
        what, prepare = COMPILED, partial(compiled, backend=run.preset.compile_backend)
    room = run.preset.steps + WARM_UPS + 8
    pair = build(run, shape, shape.decoding_layers, max(run.preset.contexts) + room)
    for context in filter(shape.fits, run.preset.contexts):
        place = Place(what, shape, 1, context)
        row = tokens(shape, 1, context, run.device)
        text = {"input_ids": as_text(shape, row)["input_ids"]}
        image = {name: row[name] for name in ("input_ids", "pixel_values")}
        token = text["input_ids"][:, -1:].clone()
        length = context + room
        try:
            # A dynamic length would make slower code.
            torch.compiler.reset()
            calls: Calls = {}
            for name in (BARE, AGAIN):
                cache = StaticCache(config=pair.bare.config, max_cache_len=length)
                calls[name] = prepare(pair.bare, token, prefill(pair.bare, text, cache))
            cache = WingsStaticCache(pair.wings.config, length)
            calls[WINGS] = prepare(pair.wings, token, prefill(pair.wings, image, cache))
        # torch reports what it cannot compile or record in errors of many classes.
        except Exception as error:
            run.skip(place, WINGS, BARE, f"refused by torch: {first_line(error)}")
            return
        run.time(place, calls, rounds=run.preset.steps)


def prefill(model: PreTrainedModel, row: dict[str, Tensor], cache: Cache | None = None) -> Cache:
    """The cache after a pass over the row; a new one if none is given."""
    held = {} if cache is None else {cache_name(model): cache}
    with torch.no_grad():
        filled = cache_of(model(**row, **held, use_cache=True, logits_to_keep=1))
    assert filled is not None, "decoders return their cache"
    return filled


def decoder(
    model: PreTrainedModel,
    token: Tensor,
    cache: Cache,
    forward: Callable[..., object] | None = None,
) -> Callable[[], None]:
    """A call that decodes `token [1, 1]` and caches it; `forward` is the compiled model."""
    call = model if forward is None else forward
    held = {cache_name(model): cache}

    def one() -> None:
        with torch.no_grad():
            call(token, use_cache=True, **held)

    return one


def compiled(
    model: PreTrainedModel, token: Tensor, cache: Cache, backend: str
) -> Callable[[], None]:
    """A decode step as one compiled graph, run once."""
    graph = torch.compile(model, fullgraph=True, dynamic=False, backend=backend)
    step = decoder(model, token, cache, graph)
    step()
    return step


def record(model: PreTrainedModel, token: Tensor, cache: Cache) -> Callable[[], None]:
    """A decode step as a CUDA graph; the cache counts tokens on the GPU, so replays go on."""
    step = decoder(model, token, cache)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
