"""Loads model and processor of a run: a fresh pair, or a checkpoint plus the stage's parts."""

import os
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig

from wings.config import IMAGE_FIELDS, WingsConfig
from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.model.checkpoint import OF_SENSES
from wings.model.compose import use_processor
from wings.processing.processor import WingsProcessor
from wings.saved_files import reading
from wings.sense import FIELDS, IMAGE
from wings.train.recipe import ModelNames, Recipe
from wings.train.recipe_validation import OF_IMAGES
from wings.upstream.gguf import place_of
from wings.upstream.quantizers import is_quantized

from .distributed import is_first_process
from .run_folder import RECIPE, RESULT, RunFolder
from .stages import parts_of_sense
from .start_validation import validate_against_start, validate_senses_of_start


def load_processor(recipe: Recipe) -> WingsProcessor:
    """The processor of the recipe's `model` or `start`.

    Raises:
        WingsError: neither is given, `start` has no model, or `video_sampling` is about images
            that the model does not see.
    """
    processor = _processor(recipe)
    if recipe.video_sampling is not None:
        if IMAGE not in processor.senses:
            raise WingsError(
                "video_sampling: a video is images, and this model has no encoder for them; remove"
                " the key."
            )
        processor.video_sampling = asdict(recipe.video_sampling)
    return processor


def _processor(recipe: Recipe) -> WingsProcessor:
    if recipe.start:
        processor = WingsProcessor.from_pretrained(checkpoint_of(recipe.start))
        if recipe.model is None:
            return processor
        # The added senses with the tokenizer that the start has.
        added = WingsProcessor.from_pretrained_parts(
            text=processor.tokenizer, image=recipe.model.vision, audio=recipe.model.audio
        )
        return WingsProcessor.compose(processor, added)
    names = names_of(recipe)
    assert names.text is not None
    return WingsProcessor.from_pretrained_parts(
        text=names.text, image=names.vision, audio=names.audio
    )


def load_model(recipe: Recipe) -> WingsForCausalLM:
    """The initial model.

    As in the paper, stage align starts with a visual learner and no router, stage instruct with
    both learners and the position router; `wings:` in the recipe overrides that. Further senses
    have theirs likewise, with the attended router in stage instruct; `senses:` overrides that.
    Parts that a checkpoint lacks are added and start without effect.

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
        for name, fields in added_senses(recipe).items():
            assert recipe.model is not None
            model.add(name, recipe.model.encoders[name], **fields)
        if recipe.model is not None:
            use_processor(model, load_processor(recipe))
    else:
        names, options = names_of(recipe), fresh_options(recipe)
        assert names.text is not None
        model = WingsForCausalLM.from_pretrained_parts(
            text=names.text, image=names.vision, audio=names.audio, **options
        )
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
    assert recipe.model.text is not None
    return replace(recipe.model, text=os.path.expanduser(recipe.model.text))


def fresh_options(recipe: Recipe) -> dict[str, Any]:
    """Options of a fresh model: the parts of the stage, overridden by the recipe."""
    if recipe.lora is not None and recipe.lora.stages == "both" and recipe.stage == "instruct":
        raise WingsError(
            "lora.stages: both stages train these adapters, but the recipe starts from a fresh"
            " model; run stage align with the same lora first and name it in start."
        )
    sees = names_of(recipe).vision is not None
    parts = parts_of_sense(recipe.stage, IMAGE) if sees else {}
    options = {**parts, **recipe.wings, **_kept_adapters(recipe)}
    further = {
        name: sense_fields(recipe, name) for name in names_of(recipe).encoders if name != IMAGE
    }
    return {**options, "senses": further} if further else options


def sense_fields(recipe: Recipe, name: str) -> dict[str, Any]:
    """The fields of a fresh further sense: the parts of the stage, overridden by the recipe."""
    return {**parts_of_sense(recipe.stage, name), **recipe.senses.get(name, {})}


def added_senses(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The fields of the senses that `model` adds to a start, by name; see `Sense`."""
    if recipe.start is None or recipe.model is None:
        return {}
    fields: dict[str, dict[str, Any]] = {}
    for name in recipe.model.encoders:
        if name == IMAGE:
            options = {**parts_of_sense(recipe.stage, name), **recipe.wings}
            of_image = {IMAGE_FIELDS.get(field, field): field for field in FIELDS}
            fields[name] = {of_image[n]: one for n, one in options.items() if n in of_image}
        else:
            fields[name] = sense_fields(recipe, name)
    return fields


def _kept_adapters(recipe: Recipe) -> dict[str, Any]:
    lora = recipe.lora
    return {} if lora is None or not lora.is_kept else {"lora": lora.options(recipe.stage)}


def trained_senses(recipe: Recipe, senses: Iterable[str]) -> list[str]:
    """The senses whose parts a run trains.

    Args:
        recipe: the recipe.
        senses: of the model, those that the run adds too.
    """
    if recipe.trained_senses is not None:
        return recipe.trained_senses
    return [*(added_senses(recipe) or senses)]


def later_options(recipe: Recipe, config: WingsConfig, start: str) -> dict[str, Any]:
    """Options that this recipe changes in a model loaded from `start`.

    Raises:
        WingsError: a key contradicts what the checkpoint was trained with.
    """
    added = added_senses(recipe)
    validate_senses_of_start(recipe, config, start, added)
    trained = trained_senses(recipe, [*config.senses, *added])
    old = [name for name in config.senses if name in trained]
    # Those of a fresh image sense are given to it.
    own = OF_IMAGES if IMAGE in added else ()
    options = {name: value for name, value in recipe.wings.items() if name not in own}
    changes: dict[str, dict[str, Any]] = {}
    for name in old:
        parts = parts_of_sense("instruct", name) if recipe.stage == "instruct" else {}
        # An existing router of any kind is kept.
        if config.senses[name].is_routed:
            parts.pop("router", None)
        if name == IMAGE:
            options = {**parts, **options}
        else:
            changes[name] = {**parts, **recipe.senses.get(name, {})}
    validate_against_start(recipe, options, changes, config, start)
    changed = {
        name: {field: value for field, value in one.items() if field in OF_SENSES}
        for name, one in changes.items()
    }
    changed = {name: fields for name, fields in changed.items() if fields}
    further = {"other_senses": changed} if changed else {}
    return {**options, **further, **_kept_adapters(recipe)}


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
