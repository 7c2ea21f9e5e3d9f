"""A `MergeRecipe` from the arguments of `wings merge`."""

from collections.abc import Mapping, Sequence
from typing import Any

from wings.errors import WingsError

from .methods.registry import find_method
from .recipe import MergeInput, MergeRecipe
from .setting import Setting


def recipe_of_command(
    models: Sequence[str],
    method: str,
    weights: Sequence[float],
    parameters: Mapping[str, Any],
    dtype: str | None,
    keep: str | None,
) -> MergeRecipe:
    """A recipe from the arguments of `wings merge`.

    Args:
        models: the LLM and its children.
        method: its name.
        weights: one for all children, or one a child; empty for none.
        parameters: that hold for all children.
        dtype, keep: as in `MergeRecipe`.

    Raises:
        WingsError: a bad value, by name.
    """
    base, *children = models
    if len(weights) not in (0, 1, len(children)):
        raise WingsError(
            f"--weight has {len(weights)} numbers for {len(children)} children: give one for all or"
            f" one a child."
        )
    if weights and "weight" in parameters:
        raise WingsError("weight is given by --weight and by --set: give it once.")
    own = list(weights) * (len(children) if len(weights) == 1 else 1)
    found = find_method(method)
    per_model = {one.name for one in found.parameters if one.per_model}
    if own and "weight" not in per_model:
        raise WingsError(f"{method} has no weight: leave out --weight.")
    every = {name: Setting(name, value) for name, value in parameters.items()}
    # The LLM's weight is not one that the command gives to the children.
    of_child = {name: setting for name, setting in every.items() if name in per_model}
    shared = {name: setting for name, setting in every.items() if name not in per_model}
    inputs = [
        MergeInput(source, {**of_child, **({"weight": Setting("weight", own[i])} if own else {})})
        for i, source in enumerate(children)
    ]
    return MergeRecipe(MergeInput(base), inputs, found, shared, dtype, keep)
