"""The recipes of both stages of a cell."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wings.examples.training import make_recipe
from wings.train.recipe import Recipe

from .cells import STAGE_1, Cell, Keys
from .size import ExperimentSize

TOWER = {"pool": 2, "image_size": 112}  # 8 x 8 patches become 16 image tokens
TEXT_SHARE = 0.25


def group_rates(keys: Keys, projector: float, branch: float) -> dict[str, float]:
    """The learning rate of every parameter group that a stage trains.

    Args:
        keys: of the stage.
        projector: rate of the projector.
        branch: rate of everything else.
    """
    wings = keys["wings"]
    # Shared factors are those of the first learner.
    with_factors = wings["learners"][: 1 if wings.get("share_factors") else None]
    groups = [f"{name}_learners" for name in with_factors]
    if "lora" in keys:
        groups.append("lora")
    if wings.get("router") or keys.get("lora", {}).get("gate") == "attended":
        groups.append("router")
    if keys.get("freeze_llm") is False:
        groups.append("language_model")
    return {"projector": projector, **dict.fromkeys(groups, branch)}


@dataclass(frozen=True)
class Rates:
    """The learning rates of a run, the same in both stages."""

    projector: float
    branch: float


def align_recipe(
    kind: str, rates: Rates, seed: int, steps: int, folder: Path, output: Path,
    size: ExperimentSize,
) -> Recipe:  # fmt: skip
    """Stage 1 of every cell that starts from it: questions about pictures, the LLM frozen."""
    weights = folder / "weights"
    vision = {"model_name": f"local-dir:{weights / 'tower'}", **TOWER}
    return _recipe(
        "align", STAGE_1[kind], rates, seed, steps, folder, output, size,
        model={"vision": vision, "text": str(weights / "llm")},
    )  # fmt: skip


def instruct_recipe(
    cell: Cell, rates: Rates, seed: int, steps: int, folder: Path, start: Path, output: Path,
    size: ExperimentSize,
) -> Recipe:  # fmt: skip
    """Stage 2 of a cell, from the folder `start` of its stage 1."""
    text = str(folder / "data" / "text.jsonl")
    return _recipe(
        "instruct", cell.stage_2, rates, seed, steps, folder, output, size,
        start=str(start), text_turns={"path": text, "share": TEXT_SHARE},
    )  # fmt: skip


def _recipe(
    stage: str, stage_keys: Keys, rates: Rates, seed: int, steps: int, folder: Path, output: Path,
    size: ExperimentSize, **more: Any,
) -> Recipe:  # fmt: skip
    keys = dict(stage_keys)
    wings = {"router": None, **keys.pop("wings")}
    return make_recipe(
        stage, folder / "data", {stage: None}, output, wings,
        group_rates(stage_keys, rates.projector, rates.branch),
        steps=steps, seed=seed, batch_size=size.batch_size, max_length=320, bf16=True,
        **keys, **more,
    )  # fmt: skip
