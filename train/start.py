"""Reads a recipe's start before the run that writes it has ended."""

import os
from pathlib import Path

from wings.errors import WingsError
from wings.train.recipe import Recipe
from wings.train.recipe_paths import folder_of, same_place
from wings.train.recipe_values import readable_values

from .build import checkpoint_of

REMEDY = "or give the parts of its model: start= model.vision=NAME model.text=NAME."


def readable_recipe(recipe: Recipe, file: Path | None) -> tuple[Recipe, str | None]:
    """The recipe whose `model` or `start` can be read now: this one, or one that it builds on.

    Args:
        recipe: the recipe.
        file: file of the recipe. While `start` is not written yet, the recipe next to this file
            that will write it is read instead.

    Returns:
        the recipe, and a sentence if it is another one.

    Raises:
        WingsError: `start` is not there, and no recipe next to the file writes it.
    """
    if recipe.start is None:
        return recipe, None
    maker = maker_of(recipe.start, file)
    if maker is None:
        validate_available(recipe.start)
        return recipe, None
    found, _ = readable_recipe(Recipe.from_yaml(maker), maker)
    parts = found.start or found.model
    return found, f"{recipe.start} does not exist yet: reading {parts}, as {maker.name} names them."


def validate_written(recipe: Recipe, file: Path) -> None:
    """Raise a `WingsError` if a recipe next to `file` is still to write the recipe's start."""
    if recipe.start and (maker := maker_of(recipe.start, file)):
        raise WingsError(
            f"start: there is no finished model in {recipe.start} yet; run {maker.name}, which"
            " writes it, first."
        )


def maker_of(start: str, file: Path | None) -> Path | None:
    """The recipe next to `file` that will write `start`; None if it is written, or by no recipe."""
    if file is None or (Path(start).expanduser() / "config.json").is_file():
        return None
    # A name with one slash may have been meant for the Hub, until a recipe writes it as a folder.
    places = (start, os.path.join(folder_of(file), start))
    for path in sorted(file.parent.glob("*.yaml")):
        output = readable_values(Recipe, path).get("output")
        if path != file and output and any(same_place(str(output), one) for one in places):
            return path
    return None


def validate_available(start: str) -> str:
    """The folder or Hub name of a start.

    Raises:
        WingsError: nothing there yet; the sentence names what else can be given.
    """
    try:
        return checkpoint_of(start)
    except WingsError as error:
        raise WingsError(f"{str(error).rstrip('.')}, {REMEDY}") from None
