"""Model and processor of a run: a fresh pair, or a checkpoint with the parts a stage adds."""

from pathlib import Path
from typing import Any

import torch

from wings.config import WingsConfig
from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor
from wings.train.recipe import Recipe


def load_processor(recipe: Recipe) -> WingsProcessor:
    """The processor of the recipe's `model` or `start`.

    Raises:
        WingsError: neither is given, or `start` holds no model.
    """
    if recipe.start:
        return WingsProcessor.from_pretrained(checkpoint_of(recipe.start))
    if recipe.model is None:
        raise WingsError("the recipe names neither model (vision, text) nor start (a checkpoint).")
    return WingsProcessor.from_vision_text_pretrained(recipe.model.vision, recipe.model.text)


def load_model(recipe: Recipe) -> WingsForCausalLM:
    """The model to begin with.

    Stage align begins with a visual learner and no router, stage instruct with both learners and
    the position router, as the paper does; `wings:` in the recipe says otherwise. A checkpoint that
    lacks those parts grows them, and they start without effect.

    Raises:
        WingsError: neither `model` nor `start`, or `start` holds no model.
    """
    if recipe.start:
        return _continue(recipe, checkpoint_of(recipe.start))
    if recipe.model is None:
        raise WingsError("the recipe names neither model (vision, text) nor start (a checkpoint).")
    options = fresh_options(recipe)
    return WingsForCausalLM.from_vision_text_pretrained(
        recipe.model.vision, recipe.model.text, **options
    )


def fresh_options(recipe: Recipe) -> dict[str, Any]:
    """Options of a model that begins with this recipe: its stage's parts, and what it says."""
    return {**_parts(recipe), **recipe.wings}


def later_options(recipe: Recipe, config: WingsConfig, start: str) -> dict[str, Any]:
    """What this recipe changes of a model that goes on from the checkpoint `start`.

    Raises:
        WingsError: it would drop learners or a prefix that were trained.
    """
    options = dict(recipe.wings)
    if recipe.stage == "instruct":
        parts = _parts(recipe)
        # A router that is there already is kept, whichever it is.
        if config.is_routed:
            del parts["router"]
        options = {**parts, **options}
    lost = sorted(set(config.learners) - set(options.get("learners", config.learners)))
    if lost:
        raise WingsError(
            f"wings.learners: {start} has trained {lost[0]} learners, which the recipe would drop;"
            " keep them, or start from a checkpoint without."
        )
    prefix = options.get("prefix", config.prefix)
    if config.prefix and prefix != config.prefix:
        raise WingsError(
            f"wings.prefix: {start} has trained a prefix of {config.prefix} keys, which the recipe"
            f" would drop for one of {prefix!r}; keep it, or start from a checkpoint without."
        )
    return options


def _continue(recipe: Recipe, start: str) -> WingsForCausalLM:
    options = later_options(recipe, WingsConfig.from_pretrained(start), start)
    # As stored: what was trained in float32 would be rounded to the type of the frozen rest.
    return WingsForCausalLM.from_pretrained(start, dtype=torch.float32, **options)


def checkpoint_of(start: str) -> str:
    """The folder or Hub name of a recipe's `start`.

    Raises:
        WingsError: no such folder, or one without a model.
    """
    folder = Path(start).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise WingsError(f"start: {folder} has no config.json; did that run finish?")
        return str(folder)
    # Anything else may be a name on the Hub; what looks like a path is not.
    if folder.is_absolute() or start.startswith(".") or start.count("/") != 1:
        raise WingsError(f"start: there is no folder {folder}; run the stage that makes it first.")
    return start


def _parts(recipe: Recipe) -> dict[str, Any]:
    if recipe.stage == "align":
        return {"learners": ["image"], "router": None}
    return {"learners": ["image", "text"], "router": "position"}
