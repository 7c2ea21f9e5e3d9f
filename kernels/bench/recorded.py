"""Decoding as a recorded CUDA graph: what is left when the host's own work is gone."""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import StaticCache

from wings import WingsStaticCache

from .batch import as_text, fits, tokens
from .model import Pair, build
from .preset import Shape
from .row import AGAIN, BARE, RECORDED, WINGS
from .run import Place, Run, first_line
from .whole import decoder

# Passes before a recording, in which libraries set up what they keep.
WARM_UPS = 3


def measure_recorded_decoding(run: Run, shape: Shape) -> None:
    """As `whole.measure_decoding`, with static caches and one recording for all steps.

    It comes last in a run: a recording that fails can leave a card in a state of its own.
    """
    if run.device.type != "cuda" or run.is_late:
        return
    room = run.preset.steps + 2 * WARM_UPS + 8
    pair = build(
        shape, shape.decoding_layers, max(run.preset.contexts) + room, run.preset.dtype, run.device
    )
    for context in run.preset.contexts:
        if not fits(shape, context):
            continue
        place = Place(RECORDED, shape, 1, context)
        row = tokens(shape, 1, context, run.device)
        try:
            steps = static_steps(pair, shape, row, context + room)
            calls = {name: record(step) for name, step in steps.items()}
        # What cannot be recorded is said in errors of many classes.
        except Exception as error:
            run.skip(place, WINGS, BARE, f"refused by torch: {first_line(error)}")
            return
        run.time(place, {**calls, AGAIN: calls[BARE]}, rounds=run.preset.steps)


def static_steps(
    pair: Pair, shape: Shape, row: dict[str, Tensor], room: int
) -> dict[str, Callable[[], None]]:
    """A step of each model behind a static cache for `room` tokens that has taken in the row."""
    text = as_text(shape, row)["input_ids"]
    bare = StaticCache(config=pair.bare.config, max_cache_len=room)
    ours = WingsStaticCache(pair.wings.config, room)
    with torch.no_grad():
        pair.bare(text, past_key_values=bare, logits_to_keep=1)
        pair.wings(
            row["input_ids"], pixel_values=row["pixel_values"], past_key_values=ours,
            use_cache=True, logits_to_keep=1,
        )  # fmt: skip
    token = text[:, -1:].clone()
    return {
        BARE: decoder(pair.bare, token, bare),
        WINGS: decoder(pair.wings, token, ours),
    }


def record(step: Callable[[], None]) -> Callable[[], None]:
    """The step as a graph; its caches count their tokens on the card and go on with each replay."""
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
