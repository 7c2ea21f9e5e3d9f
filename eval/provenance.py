"""What a checkpoint's recipes say of its language model: whether it stayed as it began."""

from pathlib import Path

import yaml

from wings.errors import WingsError

RECIPE = "recipe.yaml"
ADVICE = "name the LLM that it grew from with --against"


def validate_frozen_llm(checkpoint: str) -> str:
    """Sees that no stage trained the language model of a checkpoint.

    The recipe beside it is read, and those of the checkpoints that it started from.

    Returns:
        A sentence on what a comparison with that language model can show.

    Raises:
        WingsError: a stage trained it, or nothing is known of one.
    """
    folder, seen = Path(checkpoint), set()
    while True:
        path = folder / RECIPE
        if path in seen or not path.is_file():
            raise WingsError(
                f"there is no {path}, so nothing says that the LLM inside {checkpoint} stayed as it"
                f" was, and comparing with it could hide what was forgotten; {ADVICE}"
            )
        seen.add(path)
        recipe = _recipe(path)
        frozen = recipe.get("freeze_llm")
        if not (recipe.get("stage") == "align" if frozen is None else frozen):
            raise WingsError(
                f"the LLM inside {checkpoint} was trained ({path} does not freeze it), so comparing"
                f" with it could show no forgetting; {ADVICE}"
            )
        if not recipe.get("start"):
            return (
                f"compared with the LLM inside {checkpoint}, which its recipes kept frozen: this "
                "shows what learners and pictures change, and could not show the forgetting of an "
                "LLM that was trained all the same"
            )
        folder = Path(recipe["start"])


def _recipe(path: Path) -> dict:
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise WingsError(f"{path} cannot be read as a recipe; {ADVICE}") from error
    if not isinstance(recipe, dict):
        raise WingsError(f"{path} is no recipe; {ADVICE}")
    return recipe
