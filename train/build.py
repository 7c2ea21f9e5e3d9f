"""Loads model and processor of a run: a fresh pair, or a checkpoint plus the stage's parts."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig

from wings.config import LoraOptions, WingsConfig
from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor
from wings.saved_files import reading
from wings.train.recipe import PARTS, ModelNames, Recipe

from .distributed import is_first_process
from .run_folder import RECIPE, RESULT, RunFolder


def load_processor(recipe: Recipe) -> WingsProcessor:
    """The processor of the recipe's `model` or `start`.

    Raises:
        WingsError: neither is given, or `start` has no model.
    """
    if recipe.start:
        return WingsProcessor.from_pretrained(checkpoint_of(recipe.start))
    names = names_of(recipe)
    return WingsProcessor.from_vision_text_pretrained(names.vision, names.text)


def load_model(recipe: Recipe) -> WingsForCausalLM:
    """The initial model.

    As in the paper, stage align starts with a visual learner and no router, stage instruct with
    both learners and the position router; `wings:` in the recipe overrides that. Parts that a
    checkpoint lacks are added and start without effect.

    Raises:
        WingsError: neither `model` nor `start`, or `start` has no model.
    """
    if recipe.start:
        start = checkpoint_of(recipe.start)
        with reading(start, "Wings checkpoint"):
            config = WingsConfig.from_pretrained(start)
        options = later_options(recipe, config, start)
        # float32, so that trained weights are not rounded to the dtype of frozen ones.
        return WingsForCausalLM.from_pretrained(start, dtype=torch.float32, **options)
    names, options = names_of(recipe), fresh_options(recipe)
    return WingsForCausalLM.from_vision_text_pretrained(names.vision, names.text, **options)


def generation_config_of(source: str) -> GenerationConfig:
    """The generation settings of a folder or Hub id; of its model where it has none of its own.

    Raises:
        Exception: nearly any, where neither can be read; see `wings.saved_files.reading`.
    """
    try:
        return GenerationConfig.from_pretrained(source)
    except OSError:
        config = AutoConfig.from_pretrained(source)
        return GenerationConfig.from_model_config(config)


def names_of(recipe: Recipe) -> ModelNames:
    """The recipe's `model`.

    Raises:
        WingsError: there is none.
    """
    if recipe.model is None:
        raise WingsError(
            "The recipe names neither model (vision, text) nor start (a checkpoint); add one."
        )
    return replace(recipe.model, text=os.path.expanduser(recipe.model.text))


def fresh_options(recipe: Recipe) -> dict[str, Any]:
    """Options of a fresh model: the parts of the stage, overridden by the recipe."""
    if recipe.lora is not None and recipe.lora.stages == "both" and recipe.stage == "instruct":
        raise WingsError(
            "lora.stages: both stages train these adapters, but the recipe starts from a fresh"
            " model; run stage align with the same lora first and name it in start."
        )
    return {**PARTS[recipe.stage], **recipe.wings, **_kept_adapters(recipe)}


def _kept_adapters(recipe: Recipe) -> dict[str, Any]:
    lora = recipe.lora
    return {} if lora is None or not lora.is_kept else {"lora": lora.options(recipe.stage)}


def later_options(recipe: Recipe, config: WingsConfig, start: str) -> dict[str, Any]:
    """Options that this recipe changes in a model loaded from `start`.

    Raises:
        WingsError: they would drop trained learners or a trained prefix.
    """
    options = dict(recipe.wings)
    if recipe.stage == "instruct":
        parts = dict(PARTS[recipe.stage])
        # An existing router of any kind is kept.
        if config.is_routed:
            del parts["router"]
        options = {**parts, **options}
    lost = sorted(set(config.learners) - set(options.get("learners", config.learners)))
    if lost:
        raise WingsError(
            f"wings.learners: {start} has trained {lost[0]} learners, which the recipe would drop;"
            " keep them, or start from a checkpoint without them."
        )
    prefix = options.get("prefix", config.prefix)
    if config.prefix and prefix != config.prefix:
        raise WingsError(
            f"wings.prefix: {start} has trained a prefix of {config.prefix} keys, which the recipe"
            f" would replace by {prefix!r}; keep it, or start from a checkpoint without it."
        )
    _validate_adapters(recipe, config, start)
    return {**options, **_kept_adapters(recipe)}


def _validate_adapters(recipe: Recipe, config: WingsConfig, start: str) -> None:
    """Raises a `WingsError` where the recipe's adapters are not those of the checkpoint."""
    lora, had = recipe.lora, config.adapters
    if had is None:
        if lora is not None and lora.stages == "both" and recipe.stage == "instruct":
            raise WingsError(
                f"lora.stages: both stages train these adapters, but {start} has none; run stage"
                " align with the same lora first."
            )
        return
    if lora is None:
        return
    if lora.stages != "both":
        raise WingsError(
            f"lora.stages: {start} already has trained adapters; go on with them by stages: both."
        )
    if not had.same_weights(LoraOptions.of(lora.options(recipe.stage))):
        raise WingsError(
            f"lora: {start} has trained adapters of rank {had.rank} on"
            f" {', '.join(had.targets or ('all linear layers',))}; keep their rank and targets."
        )


def checkpoint_of(start: str) -> str:
    """The folder or Hub name of a recipe's `start`.

    Raises:
        WingsError: no such folder, or one without a model.
    """
    folder = Path(start).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise WingsError(f"start: {folder} has no config.json; finish that run first.")
        return str(folder)
    # Other names may be on the Hub, unless they look like a path.
    if folder.is_absolute() or start.startswith(".") or start.count("/") != 1:
        raise WingsError(f"start: there is no folder {folder}; run the stage that writes it first.")
    return start


def validate_start(start: str) -> None:
    """Check that `start`, if it is the folder of a run, holds its finished and whole model.

    Raises:
        WingsError: the run did not finish, or a file of its model changed since.
    """
    run = RunFolder(start)
    if not (run.path / RECIPE).is_file() or not run.owned.is_claimed:
        return
    if not run.has_result:
        raise WingsError(f"start: {run.path} has no {RESULT}; finish that run first.")
    # On several processes one reads the weights for all.
    if problem := run.model_problem(with_content=is_first_process()):
        raise WingsError(f"start: {run.path} is not what that run wrote: {problem}; run it again.")
