"""`wings merge`: merges a language model and models that were trained from it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich import filesize
from rich.console import Console
from transformers.utils import logging

from wings.errors import WingsError
from wings.merge.merged_model import write_merged_model
from wings.merge.plan import MergePlan
from wings.merge.recipe import MergeRecipe
from wings.merge.recipe_file import read_recipe
from wings.merge.recipe_of_command import recipe_of_command
from wings.output_folder import OutputFolder

from .new_checkpoint import CONFIG, validate_new_checkpoint
from .progress import ProgressBars

DEFAULT = "linear"


def merge(
    models: Sequence[str],
    config: Path | None,
    output: Path,
    method: str | None,
    weights: Sequence[float],
    parameters: Sequence[str],
    keep: str | None,
    dtype: str | None,
    sweep: str | None,
    **measurement: Any,
) -> None:
    """Merges models and writes the result to a new folder, or measures a sweep.

    Args:
        models: the LLM and its children, folders or Hub ids; empty with `config`.
        config: a recipe in mergekit's form.
        output: a new folder; of a sweep the folder of its front.
        method: its name; None for `linear`.
        weights: of the children.
        parameters: `name=value` each.
        keep: the child whose other parts are kept.
        dtype: of the result.
        sweep: values of a parameter; None for one merge.
        **measurement: the options of a sweep, see `merge_sweep.SweepOptions`.

    Raises:
        WingsError: models or parameters that do not fit, too little space, or a folder in use.
    """
    given = {name: value for name, value in measurement.items() if value not in (None, [])}
    if sweep is None and given:
        option = next(iter(given)).replace("_", "-")
        raise WingsError(f"--{option} has an effect on a sweep only: add --sweep, or leave it out.")
    if config is None:
        recipe = _recipe(models, method or DEFAULT, weights, parameters, dtype, keep)
    elif models or method or weights or parameters:
        raise WingsError("--config has models, method and parameters: give no others.")
    else:
        recipe = read_recipe(config, dtype, keep)
    if sweep is not None:
        # It needs the packages of the evaluation.
        from .merge_sweep import run_sweep

        run_sweep(recipe, sweep, output, **given)
    else:
        write_merge(recipe, output)


def write_merge(recipe: MergeRecipe, output: Path) -> None:
    """Merges and writes a new checkpoint.

    Raises:
        WingsError: see `merge`.
    """
    target = OutputFolder(output, "wings merge")
    validate_new_checkpoint(target)
    logging.set_verbosity_error()
    plan = MergePlan.of(recipe)
    plan.validate_space(target.path)
    is_new = not target.path.exists()
    console = Console(highlight=False, soft_wrap=True)
    for note in plan.notes:
        console.print(note, markup=False)
    with target.locked():
        try:
            draft = target.draft("model")
            with ProgressBars(console) as bars:
                write_merged_model(plan, draft, lambda *size: bars.update("bytes", *size))
            target.place(draft, last=CONFIG)
        except BaseException:
            target.remove(with_folder=is_new)
            raise
    names = ", ".join(view.source.shown_name for view in plan.views)
    console.print(
        f"{output}: {plan.llm.source.shown_name} and {names} merged by {recipe.method.name},"
        f" {filesize.decimal(plan.size)}.",
        markup=False,
    )


def _recipe(
    models: Sequence[str],
    method: str,
    weights: Sequence[float],
    parameters: Sequence[str],
    dtype: str | None,
    keep: str | None,
) -> MergeRecipe:
    if len(models) < 2:
        raise WingsError("Name the language model and at least one child, or give --config.")
    values: dict[str, Any] = {}
    for text in parameters:
        name, equals, value = text.partition("=")
        try:
            values[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not equals or not name or values.get(name) is None:
            raise WingsError(f"--set {text}: write name=value, such as density=0.2.")
    return recipe_of_command(models, method, weights, values, dtype, keep)
