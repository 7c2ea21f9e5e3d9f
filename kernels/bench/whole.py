"""Whole models against the language model that they grew from."""

import os
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.utils import ModelOutput

from wings.upstream.cache_name import cache_name, cache_of

from .batch import as_text, fits, tokens
from .clock import Calls
from .floor import step_ratio
from .model import Pair, build, step
from .preset import Shape
from .row import AGAIN, BARE, DECODING, FORWARD, MEMORY, PRODUCTS, STEP, TEXTBOOK, WINGS
from .run import Place, Run
from .stand_in import (
    PRODUCTS_OPERATIONS,
    TEXTBOOK_OPERATIONS,
    Operations,
    implementations,
    in_place,
)

# Bytes that autograd keeps of the textbook's weights, per head and (query, key) pair of a block:
# main attention and learners each keep a softmax in fp32 and the masked weights.
TEXTBOOK_BYTES = 16


def measure_models(run: Run, shape: Shape, lengths: list[int], batches: tuple[int, ...]) -> None:
    """Forward, training step and its memory at `lengths`, for each number of rows."""
    if not lengths:
        return
    pair = build(shape, shape.layers, max(lengths), run.preset.dtype, run.device).train()
    for length in lengths:
        for batch in batches:
            measure_length(run, pair, shape, batch, length)


def measure_length(run: Run, pair: Pair, shape: Shape, batch: int, length: int) -> None:
    """One length and number of rows."""
    if not fits(shape, length):
        run.console.print(f"{length} tokens: {shape.image_tokens} of a picture do not fit")
        return
    row = tokens(shape, batch, length, run.device)
    text = as_text(shape, row)
    matrices = TEXTBOOK_BYTES * batch * shape.heads * length**2

    def forward() -> Calls:
        with_picture = {name: row[name] for name in ("input_ids", "pixel_values")}

        def bare() -> None:
            with torch.no_grad():
                pair.bare(text["input_ids"], use_cache=False)

        def wings() -> None:
            with torch.no_grad():
                pair.wings(**with_picture, use_cache=False)

        bound = {PRODUCTS: patched(wings, PRODUCTS_OPERATIONS)}
        return {BARE: bare, AGAIN: bare, **versions(run, lambda: wings), **bound}

    def training() -> Calls:
        def wings() -> None:
            step(pair.wings, row)

        def bare() -> None:
            step(pair.bare, text)

        return {BARE: bare, AGAIN: bare, **versions(run, lambda: wings)}

    if length in run.preset.lengths:
        calls, skipped = without_giants(run, forward(), 2 * matrices)
        run.time(Place(FORWARD, shape, batch, length), calls, skipped=skipped)
        calls, skipped = without_giants(run, training(), matrices * (shape.layers + 1))
        place = Place(STEP, shape, batch, length)
        floor = step_ratio(shape, length)
        run.time(place, calls, before=pair.forget_gradients, floor=floor, skipped=skipped)
    if length in run.preset.memory:
        calls, skipped = without_giants(run, training(), matrices * (shape.layers + 1))
        del calls[AGAIN]
        place = Place(MEMORY, shape, batch, length)
        run.measure_memory(place, calls, pair.forget_gradients, skipped)
    pair.forget_gradients()


def measure_decoding(run: Run, shape: Shape) -> None:
    """One more token, again and again, behind a cache of many."""
    steps = run.preset.steps
    positions = max(run.preset.contexts) + steps + 8
    pair = build(shape, shape.decoding_layers, positions, run.preset.dtype, run.device)
    for context in run.preset.contexts:
        if not fits(shape, context):
            continue
        row = tokens(shape, 1, context, run.device)
        text = as_text(shape, row)["input_ids"]
        with torch.no_grad():
            bare, again = (kept(pair.bare(text, logits_to_keep=1)) for _ in range(2))
        token = text[:, -1:]

        def with_own_cache(
            token: Tensor = token, row: dict[str, Tensor] = row
        ) -> Callable[[], None]:
            with torch.no_grad():
                out = pair.wings(
                    row["input_ids"], pixel_values=row["pixel_values"], logits_to_keep=1
                )
            return decoder(pair.wings, token, kept(out))

        calls: Calls = {
            BARE: decoder(pair.bare, token, bare),
            AGAIN: decoder(pair.bare, token, again),
            **versions(run, with_own_cache),
            PRODUCTS: patched(with_own_cache(), PRODUCTS_OPERATIONS),
        }
        run.time(Place(DECODING, shape, 1, context), calls, rounds=steps)


def decoder(
    model: PreTrainedModel,
    token: Tensor,
    cache: Cache,
    forward: Callable[..., object] | None = None,
) -> Callable[[], None]:
    """One pass over `token [1, 1]`, which the cache takes in; `forward`: the compiled model."""
    call = model if forward is None else forward
    held = {cache_name(model): cache}

    def one() -> None:
        with torch.no_grad():
            call(token, use_cache=True, **held)

    return one


def kept(output: ModelOutput) -> Cache:
    """The cache of a pass."""
    cache = cache_of(output)
    # Decoders make one unless they are told not to.
    assert cache is not None
    return cache


def versions(run: Run, make: Callable[[], Callable[[], None]]) -> Calls:
    """A call that `make` gives as it is, and such calls with other operations in their model."""
    others = {name: one for name, one in implementations(run.device).items() if name != WINGS}
    others[TEXTBOOK] = TEXTBOOK_OPERATIONS
    return {WINGS: make(), **{name: patched(make(), one) for name, one in others.items()}}


def patched(call: Callable[[], None], one: Operations) -> Callable[[], None]:
    """The call, with these operations in its model."""

    def inside() -> None:
        with in_place(one):
            call()

    return inside


def without_giants(run: Run, calls: Calls, bytes_needed: int) -> tuple[Calls, dict[str, str]]:
    """The calls without the textbook where its matrices would not fit, and the reason."""
    if bytes_needed <= 0.6 * free_bytes(run.device):
        return calls, {}
    del calls[TEXTBOOK]
    return calls, {TEXTBOOK: f"its matrices need about {bytes_needed / 1e9:.0f} GB"}


def free_bytes(device: torch.device) -> int:
    """A card's free memory; on a CPU all of the machine's, as caches give way."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
