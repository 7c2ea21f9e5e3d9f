"""The recipes of the study's trainings."""

from pathlib import Path
from typing import Any

from wings.examples.experiment.recipes import TEXT_SHARE, TOWER
from wings.examples.training import make_recipe
from wings.train.recipe import Recipe

from .rows import (
    AUDIO,
    CHOSEN_RULE,
    IMAGE,
    LEARNERS,
    LLM_RATES,
    RATES,
    Training,
)
from .senses_data import REPLAY
from .senses_size import SensesSize

# One stretch holds nearly every sound; 200 positions become 40 audio tokens.
SPEECH = {"seconds": 4, "pool": 5}
# The option of each sense's guard.
GUARDS = {IMAGE: "text_guard", AUDIO: "guard"}
# Parts of a sense -> its groups of parameters.
GROUPS = {
    IMAGE: {
        "projector": "projector", "own": "image_learners", "text": "text_learners",
        "router": "router",
    },
    AUDIO: {
        "projector": "audio_projector", "own": "audio_learners", "text": "audio_text_learners",
        "router": "audio_router",
    },
}  # fmt: skip


def training_recipe(
    one: Training, seed: int, folder: Path, start: Path | None, output: Path, size: SensesSize
) -> Recipe:
    """The recipe of a training.

    Args:
        one: the training.
        seed: of new weights and of the order of the data.
        folder: with `weights` and `data`.
        start: folder of the model that it starts from; None for fresh parts.
        output: folder of the result.
        size: of the study.
    """
    files: dict[str, float | None] = {f"{name}-{one.stage}": None for name in one.data}
    keys: dict[str, Any] = {"seed": seed, "steps": steps_of(one, size)}
    if one.adds:
        keys["model"] = encoders(one, folder)
    if start is not None:
        keys["start"] = str(start)
        keys["trained_senses"] = list(one.trains)
    if AUDIO in one.trains:
        keys["senses"] = {AUDIO: options(one, AUDIO)}
    if one.stage == "instruct":
        keys["freeze_llm"] = not one.llm_rate
        text = str(folder / "data" / f"{REPLAY}.jsonl")
        keys["text_turns"] = {"path": text, "share": TEXT_SHARE}
    wings = options(one, IMAGE) if IMAGE in one.trains else {}
    if len(one.adds) > 1:
        wings["senses_rule"] = CHOSEN_RULE
    return make_recipe(
        one.stage, folder / "data", files, output, wings, rates(one), max_length=400,
        batch_size=size.batch_size, bf16=True, **keys,
    )  # fmt: skip


def steps_of(one: Training, size: SensesSize) -> int:
    """Steps of a training: those of each sense that it trains on."""
    return sum(size.steps_of(sense, one.stage) for sense in one.data)


def encoders(one: Training, folder: Path) -> dict[str, Any]:
    """The key `model`: the encoders that a training adds, and the LLM of fresh parts."""
    weights = folder / "weights"
    model: dict[str, Any] = {}
    if IMAGE in one.adds:
        model["vision"] = {"model_name": f"local-dir:{weights / 'tower'}", **TOWER}
    if AUDIO in one.adds:
        model["audio"] = {"model_name": str(weights / "whisper"), **SPEECH}
    return model if one.start else {**model, "text": str(weights / "llm")}


def options(one: Training, sense: str) -> dict[str, Any]:
    """Options of the parts of a sense in a training."""
    if not one.learners:
        return {"learners": [], "router": None}
    own = {**LEARNERS, GUARDS[sense]: True}
    if one.stage == "align":
        return {"learners": [sense], "router": None, **own}
    return {"learners": [sense, "text"], "router": "attended", **own}


def rates(one: Training) -> dict[str, float]:
    """The learning rate of every group that a training trains."""
    found: dict[str, float] = {}
    for sense in one.trains:
        groups, (projector, others) = GROUPS[sense], RATES[sense, one.stage]
        found[groups["projector"]] = projector
        if one.learners:
            names = ("own",) if one.stage == "align" else ("own", "text", "router")
            found |= {groups[name]: others for name in names}
    if one.llm_rate:
        found["language_model"] = LLM_RATES[one.llm_rate]
    return found
