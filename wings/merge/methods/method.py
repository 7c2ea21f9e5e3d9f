"""`Method`: how the tensors of a language model and of its children become one."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from wings.errors import WingsError

# Elements of the merged tensor from those of the base and of each child, all flat and in the dtype
# that is computed in, and their place in the whole.
Elementwise = Callable[[Tensor, Sequence[Tensor], slice], Tensor]


@dataclass(frozen=True)
class Parameter:
    """A parameter of a method.

    Attributes:
        name: of the parameter.
        default: its value where none is given; its type is the parameter's.
        is_required: a value must be given.
        per_model: each model may have its own; otherwise one holds for all.
        least, most: bounds of a number.
        choices: of a text.
    """

    name: str
    default: Any = 1.0
    is_required: bool = False
    per_model: bool = False
    least: float = -math.inf
    most: float = math.inf
    choices: tuple[str, ...] = ()

    def validate(self, value: Any) -> None:
        """Raises a `WingsError` for a value of another type or outside of the bounds."""
        if isinstance(self.default, bool):
            wanted, fits = "true or false", isinstance(value, bool)
        elif isinstance(self.default, str):
            wanted, fits = " or ".join(self.choices), value in self.choices
        else:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            wanted = self._bounds()
            fits = is_number and math.isfinite(value) and self.least <= value <= self.most
        if not fits:
            raise WingsError(f"{self.name} is {value!r}, but must be {wanted}.")

    def _bounds(self) -> str:
        if math.isfinite(self.most):
            return f"a number from {self.least:g} to {self.most:g}"
        return "a number of 0 or more" if self.least == 0 else "a finite number"


@dataclass(frozen=True)
class Values:
    """The parameters of one tensor.

    Attributes:
        shared: those that hold for all models.
        children: those of each child.
        base: those of the LLM; a parameter without a value for it is missing.
    """

    shared: Mapping[str, Any]
    children: Sequence[Mapping[str, Any]]
    base: Mapping[str, Any]


class Method(ABC):
    """A way of merging.

    Attributes:
        name: as in `merge_method`.
        parameters: that it takes.
    """

    name: str
    parameters: Sequence[Parameter]

    def validate(self, values: Values) -> None:  # noqa: B027
        """Raises a `WingsError` for values that do not go together."""

    @abstractmethod
    def prepare(
        self, name: str, base: Tensor, children: Sequence[Tensor], values: Values
    ) -> Elementwise:
        """Takes what it needs from whole tensors, and returns the function of their elements.

        Args:
            name: of the tensor in the LLM.
            base, children: of one shape; in the dtype of their files.
            values: of the parameters.
        """


def moved(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Moves from one tensor towards another; a share of 0 and of 1 gives one of them to the bit."""
    if share == 0:
        return start
    return end if share == 1 else start + (end - start) * share
