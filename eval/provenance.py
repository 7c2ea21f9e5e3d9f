"""Checks in the recipes of a checkpoint that its language model was never trained."""

from pathlib import Path

import yaml
import yamlcore

from wings.errors import WingsError

RECIPE = "recipe.yaml"
ADVICE = "name the LLM that the checkpoint was built from with --against."


def validate_frozen_llm(checkpoint: str) -> str:
    """Checks that no stage trained the language model of a checkpoint.

    Reads the recipe in its folder and those of the checkpoints that it started from.

    Returns:
        A sentence on the limits of a comparison with that language model.

    Raises:
        WingsError: a stage trained it, or a recipe is missing.
    """
    folder, visited = Path(checkpoint), set()
    while True:
        path = folder / RECIPE
        if path in visited or not path.is_file():
            raise WingsError(
                f"There is no {path}, so it is unknown if the LLM inside {checkpoint} was trained. "
                f"Comparing with a trained LLM would hide forgetting; {ADVICE}"
            )
        visited.add(path)
        recipe = _read_recipe(path)
        frozen = recipe.get("freeze_llm")
        if not (recipe.get("stage") == "align" if frozen is None else frozen):
            raise WingsError(
                f"The LLM inside {checkpoint} was trained ({path} does not freeze it). Comparing "
                f"with it would hide forgetting; {ADVICE}"
            )
        if not recipe.get("start"):
            return (
                f"The model is compared with the LLM inside {checkpoint}, which its recipes kept "
                "frozen. This shows the effect of learners and pictures. It would not show "
                "forgetting if the LLM had been trained all the same."
            )
        # Relative to the folder of the recipe that names it.
        folder = folder / Path(recipe["start"]).expanduser()


def _read_recipe(path: Path) -> dict:
    try:
        recipe = yaml.load(path.read_text(encoding="utf-8"), yamlcore.CoreLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise WingsError(f"{path} cannot be read as a recipe; {ADVICE}") from error
    if not isinstance(recipe, dict):
        raise WingsError(f"{path} is no recipe; {ADVICE}")
    return recipe
