"""Loads model and processor of a run: a fresh pair, or a checkpoint plus the stage's parts."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig

from wings.config import WingsConfig
from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor
from wings.saved_files import reading
from wings.train.recipe import PARTS, ModelNames, Recipe
from wings.upstream.gguf import place_of
from wings.upstream.quantizers import is_quantized

from .distributed import is_first_process
from .run_folder import RECIPE, RESULT, RunFolder
from .start_validation import validate_against_start


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
        WingsError: neither `model` nor `start`, or `start` has no model, or one that is quantised.
    """
    if recipe.start:
        start = checkpoint_of(recipe.start)
        options = start_options(recipe)
        # float32, so that trained weights are not rounded to the dtype of frozen ones.
        model = WingsForCausalLM.from_pretrained(start, dtype=torch.float32, **options)
        # Loading replaces the LLM's own dtype, in which it may be extracted later.
        model.config.text_config.dtype = start_config(start).text_config.dtype
    else:
        names, options = names_of(recipe), fresh_options(recipe)
        model = WingsForCausalLM.from_vision_text_pretrained(names.vision, names.text, **options)
    validate_not_quantized(recipe, model)
    return model


def validate_not_quantized(recipe: Recipe, model: WingsForCausalLM) -> None:
    """Raises a `WingsError` if weights are quantised: transformers' Trainer refuses such models."""
    if is_quantized(model):
        key = "start" if recipe.start else "model.text"
        raise WingsError(
            f"{key}: its weights are quantised, which no recipe trains; name a checkpoint that is "
            "not, or train adapters with peft, as docs/quantised.md shows."
        )


def start_options(recipe: Recipe) -> dict[str, Any]:
    """The options that the recipe changes in its `start`, whose config.json is read.

    Raises:
        WingsError: `start` has no model, or a key contradicts it.
    """
    assert recipe.start is not None
    start = checkpoint_of(recipe.start)
    return later_options(recipe, start_config(start), start)


def start_config(start: str) -> WingsConfig:
    """The configuration of a checkpoint as it is on disk.

    Raises:
        WingsError: it cannot be read.
    """
    with reading(start, "Wings checkpoint"):
        return WingsConfig.from_pretrained(start)


def generation_config_of(source: str) -> GenerationConfig:
    """The generation settings of a folder or Hub id; of its model where it has none of its own.

    Raises:
        Exception: nearly any, where neither can be read; see `wings.saved_files.reading`.
    """
    place, file = place_of(source)
    try:
        return GenerationConfig.from_pretrained(place)
    except OSError:
        config = AutoConfig.from_pretrained(place, **file)
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
        WingsError: a key contradicts what the checkpoint was trained with.
    """
    options = dict(recipe.wings)
    if recipe.stage == "instruct":
        parts = dict(PARTS[recipe.stage])
        # An existing router of any kind is kept.
        if config.is_routed:
            del parts["router"]
        options = {**parts, **options}
    validate_against_start(recipe, options, config, start)
    return {**options, **_kept_adapters(recipe)}


def is_llm_trained(recipe: Recipe, before: bool | None) -> bool | None:
    """`WingsConfig.llm_trained` of the finished model.

    Args:
        recipe: recipe of the run.
        before: that of the initial model; False for a fresh one.
    """
    is_merged = recipe.lora is not None and not recipe.lora.is_kept
    return True if is_merged or not recipe.freeze_llm else before


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
    # Other names may be on the Hub, unless they look like a path or are next to other folders.
    is_path = folder.is_absolute() or start.startswith(".") or start.count("/") != 1
    if is_path or folder.parent.is_dir():
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
