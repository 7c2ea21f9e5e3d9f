"""A `MergeRecipe` from a YAML file in mergekit's form."""

from pathlib import Path
from typing import Any

import yaml

from wings.errors import WingsError, nearest

from .methods.registry import find_method
from .recipe import MergeInput, MergeRecipe, Settings
from .setting import Setting

KEYS = ("base_model", "models", "merge_method", "parameters", "dtype", "keep")
# Keys of mergekit for what is not done here.
OTHERS = (
    "slices", "modules", "tokenizer_source", "tokenizer", "chat_template", "out_dtype",
    "default_fallback",
)  # fmt: skip


def read_recipe(path: Path, dtype: str | None = None, keep: str | None = None) -> MergeRecipe:
    """Reads a recipe in mergekit's form.

    Args:
        path: of the YAML file.
        dtype, keep: replace the file's.

    Raises:
        WingsError: no such file, no YAML, an unknown key, or a bad value.
    """
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WingsError(f"--config: {path} cannot be read ({error.strerror}).") from error
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise WingsError(f"--config: {path} is no valid YAML ({reason}).") from error
    try:
        return merge_recipe(fields, dtype, keep)
    except WingsError as error:
        raise WingsError(f"{path.name}: {error}") from error


def merge_recipe(fields: Any, dtype: str | None = None, keep: str | None = None) -> MergeRecipe:
    """A recipe from the content of a file.

    Args:
        fields: of the file.
        dtype, keep: replace the file's.

    Raises:
        WingsError: an unknown key, or a bad value.
    """
    if not isinstance(fields, dict):
        raise WingsError("It holds no mapping: give base_model, models and merge_method.")
    for key in fields:
        if key in OTHERS:
            raise WingsError(f"'{key}' is not supported, as whole models are merged: remove it.")
        if key not in KEYS:
            raise WingsError(f"There is no key '{key}'{nearest(str(key), KEYS)}: rename it.")
    for key in ("base_model", "merge_method"):
        if not isinstance(fields.get(key), str):
            raise WingsError(f"{key} is missing or no text: name it.")
    models = fields.get("models")
    if not isinstance(models, list) or not models:
        raise WingsError("models is missing: list the children, each with 'model'.")
    inputs = [_input(one) for one in models]
    base = fields["base_model"]
    own = [one for one in inputs if one.source == base]
    return MergeRecipe(
        own[0] if own else MergeInput(base),
        [one for one in inputs if one.source != base],
        find_method(fields["merge_method"]),
        _settings(fields.get("parameters")),
        dtype or fields.get("dtype"),
        keep or fields.get("keep"),
    )


def recipe_fields(recipe: MergeRecipe) -> dict[str, Any]:
    """The content of a file that `merge_recipe` reads as a recipe."""
    models = [recipe.base] if recipe.base.settings else []
    fields: dict[str, Any] = {
        "base_model": recipe.base.source,
        "merge_method": recipe.method.name,
        "models": [
            {"model": one.source, "parameters": _fields(one.settings)}
            for one in (*models, *recipe.children)
        ],
        "parameters": _fields(recipe.settings),
    }
    given = {"dtype": recipe.dtype, "keep": recipe.keep}
    return fields | {name: value for name, value in given.items() if value is not None}


def _fields(settings: Settings) -> dict[str, Any]:
    return {name: setting.to_json() for name, setting in settings.items()}


def _input(fields: Any) -> MergeInput:
    if not isinstance(fields, dict) or not isinstance(fields.get("model"), str):
        raise WingsError(f"models lists {fields!r}: give an entry 'model' with a folder or Hub id.")
    for key in fields:
        if key not in ("model", "parameters"):
            raise WingsError(f"A model has the key '{key}': its keys are model and parameters.")
    return MergeInput(fields["model"], _settings(fields.get("parameters")))


def _settings(fields: Any) -> Settings:
    if fields is None:
        return {}
    if not isinstance(fields, dict):
        raise WingsError("parameters is no mapping: give names and values.")
    return {str(name): Setting(str(name), value) for name, value in fields.items()}
