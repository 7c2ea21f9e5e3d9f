"""mergekit's merge methods by name, which take one tensor of each model at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Of a parameter without a default.
REQUIRED = object()


@dataclass(frozen=True)
class MergekitParameter:
    """A parameter of a method: its default or `REQUIRED`, and the models that have their own.

    `scope` is "shared", "input" (each model) or "non_base" (each child).
    """

    name: str
    default: Any
    scope: str


def mergekit_methods() -> dict[str, tuple[MergekitParameter, ...]]:
    """The parameters of every registered method."""
    from mergekit.merge_methods import registered_methods

    return {
        method.spec.name: tuple(
            MergekitParameter(one.name, REQUIRED if one.required else one.default, one.scope.value)
            for one in method.spec.parameters
        )
        for method in registered_methods()
    }


def validate_inputs(method: str, models: int) -> None:
    """Raises a ValueError if a method does not take a base and `models` - 1 children."""
    from mergekit.merge_methods import get

    get(method).validate_inputs(list(range(models)), 0)


def validate_value(method: str, parameter: str, value: Any) -> Any:
    """Returns a value in the parameter's type; raises a ValueError for another type."""
    from mergekit.merge_methods import get

    (spec,) = [one for one in get(method).spec.parameters if one.name == parameter]
    return spec.validate(value)


def merge_with_mergekit(
    method: str, name: str, tensors: Sequence[Tensor], parameters: Mapping[str, Any]
) -> Tensor:
    """Merges one tensor of each model; the first model is the base.

    Args:
        method: of `mergekit_methods`.
        name: of the tensor.
        tensors: of one shape and dtype.
        parameters: values that are shared, or a list with one a model, or one a child.
    """
    from mergekit.merge_methods import merge_tensors

    with torch.no_grad():
        return merge_tensors(
            tensors, method, parameters=parameters, ids=range(len(tensors)), base_index=0, name=name
        )
