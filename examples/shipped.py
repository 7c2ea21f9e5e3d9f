"""Shipped recipes of the examples, whose paths start at the folder of a run."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from wings.train.recipe import Recipe
from wings.train.recipe_paths import open_paths
from wings.train.recipe_values import override
from wings.train.recipe_yaml import read_yaml


def shipped_recipe(name: str, folder: Path, changes: Sequence[str] = ()) -> Recipe:
    """A shipped recipe with its paths below `folder`.

    Args:
        name: of the file in `train/recipes`, without its ending.
        folder: of the run.
        changes: `key=value`, as for `wings.train`; paths in them start at the working folder.
    """
    file = Path(str(files("wings.train") / "recipes" / f"{name}.yaml"))
    values = read_yaml(file.read_text(encoding="utf-8"), str(file))
    for change in changes:
        override(values, change)
    given = [change.partition("=")[0] for change in changes]
    return Recipe.from_dict(open_paths(Recipe, values, str(folder), str(file), given), str(file))
