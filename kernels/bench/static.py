"""Decoding with static caches, compiled or recorded: what is left when the host's work is gone."""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel, StaticCache

from wings import WingsStaticCache
from wings.upstream.cache_name import cache_name

from .batch import as_text, fits, tokens
from .clock import Calls
from .model import Pair, build
from .preset import Shape
from .row import AGAIN, BARE, COMPILED, RECORDED, WINGS
from .run import Place, Run, first_line
from .whole import decoder

# Passes before a recording, in which libraries set up what they keep.
WARM_UPS = 3

Prepare = Callable[[PreTrainedModel, Tensor, StaticCache], Callable[[], None]]


def measure_static_decoding(run: Run, shape: Shape) -> None:
    """As `whole.measure_decoding`: one recording for all steps on a card, compiled on a CPU.

    It comes last in a run: a recording that fails can leave a card in a state of its own.
    """
    if run.is_late:
        return
    what, prepare = (RECORDED, record) if run.device.type == "cuda" else (COMPILED, compiled)
    room = run.preset.steps + WARM_UPS + 8
    pair = build(
        shape, shape.decoding_layers, max(run.preset.contexts) + room, run.preset.dtype, run.device
    )
    for context in run.preset.contexts:
        if not fits(shape, context):
            continue
        place = Place(what, shape, 1, context)
        row = tokens(shape, 1, context, run.device)
        try:
            # A length that varies would make slower code.
            torch.compiler.reset()
            calls = static_steps(pair, shape, row, context + room, prepare)
        # What cannot be compiled or recorded is said in errors of many classes.
        except Exception as error:
            run.skip(place, WINGS, BARE, f"refused by torch: {first_line(error)}")
            return
        run.time(place, calls, rounds=run.preset.steps)


def static_steps(
    pair: Pair, shape: Shape, row: dict[str, Tensor], room: int, prepare: Prepare
) -> Calls:
    """A prepared step of each model behind a static cache for `room` tokens that holds the row."""
    text = {"input_ids": as_text(shape, row)["input_ids"]}
    pictures = {name: row[name] for name in ("input_ids", "pixel_values")}
    token = text["input_ids"][:, -1:].clone()

    def step(
        model: PreTrainedModel, given: dict[str, Tensor], cache: StaticCache
    ) -> Callable[[], None]:
        with torch.no_grad():
            model(**given, **{cache_name(model): cache}, use_cache=True, logits_to_keep=1)
        return prepare(model, token, cache)

    def bare() -> Callable[[], None]:
        return step(pair.bare, text, StaticCache(config=pair.bare.config, max_cache_len=room))

    def wings() -> Callable[[], None]:
        return step(pair.wings, pictures, WingsStaticCache(pair.wings.config, room))

    return {BARE: bare(), AGAIN: bare(), WINGS: wings()}


def compiled(model: PreTrainedModel, token: Tensor, cache: StaticCache) -> Callable[[], None]:
    """The step as one compiled graph, which has run once."""
    step = decoder(model, token, cache, torch.compile(model, fullgraph=True, dynamic=False))
    step()
    return step


def record(model: PreTrainedModel, token: Tensor, cache: StaticCache) -> Callable[[], None]:
    """The step as a graph; its cache counts its tokens on the card and goes on with each replay."""
    step = decoder(model, token, cache)
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UPS):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
