"""Recipes, training and worker settings that the examples share."""

from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.utils import logging

from wings.train.metrics.progress import Watch
from wings.train.recipe import Recipe
from wings.train.result import TrainResult
from wings.train.run import train


def make_recipe(
    stage: str,
    data: Path,
    files: dict[str, float | None],
    output: Path,
    wings: dict[str, Any],
    learning_rates: dict[str, float],
    **keys: Any,
) -> Recipe:
    """The recipe of one stage.

    Args:
        stage: "align" or "instruct".
        data: folder of the files and of the pictures that they name.
        files: names of `.jsonl` files, each with its share of the samples or None.
        output: folder of the result.
        wings: options of `WingsConfig`.
        learning_rates: by parameter group.
        keys: the other keys of the recipe.
    """
    sources = [
        {"path": str(data / f"{name}.jsonl"), "images": str(data), "share": share}
        for name, share in files.items()
    ]
    return Recipe.from_dict(
        {
            "stage": stage,
            "output": str(output),
            "data": sources,
            "wings": wings,
            "learning_rates": learning_rates,
            "warmup_ratio": 0.05,
            "log_every": 5,
            # The losses go into the example's own page.
            "trackers": [],
            # Methods are compared at their end, on a test set of their own.
            "evaluate": {"text_after_image": 0, "answers": 0},
            **keys,
        }
    )


def group_rates(wings: dict[str, Any], projector: float, learners: float) -> dict[str, float]:
    """Learning rates of the projector, and of the learners and the router that `wings` names."""
    rates = {"projector": projector}
    rates |= {f"{learner}_learners": learners for learner in wings["learners"]}
    if len(wings["learners"]) > 1 and wings.get("router"):
        rates["router"] = learners
    return rates


def train_short_rows(recipe: Recipe, watch: Watch | None = None) -> TrainResult:
    """Trains on samples of about a hundred tokens or fewer.

    At these lengths plain attention trains a third faster on a CPU than the fused kernel, whose
    backward pass is optimized for long rows.
    """
    with sdpa_kernel(SDPBackend.MATH):
        return train(recipe, watch=watch)


def unwatched(step: int, steps: int, metrics: dict[str, float]) -> None:
    """Watches a training and prints nothing."""


def set_up_worker() -> None:
    """Limits a worker process to one thread, as two share the machine, and turns bars off."""
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
