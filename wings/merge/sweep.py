"""`Sweep`: one merge at several values of one of its parameters."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from wings.errors import WingsError, nearest

from .methods.method import Parameter
from .recipe import MergeRecipe
from .setting import Setting

WEIGHT = "weight"
DOTS = "..."
MOST = 1000  # values of one sweep
FORM = "write values such as 0,.1,...,1, or name another parameter as in density=.1,.2,.5"


@dataclass(frozen=True)
class Sweep:
    """The values of one parameter.

    Attributes:
        parameter: its name.
        values: different ones, in the order given.
    """

    parameter: str
    values: tuple[float, ...]

    @classmethod
    def parse(cls, text: str) -> "Sweep":
        """Reads `0,.25,1`, `0,.1,...,1` (equal steps) or `density=.1,.2`.

        Raises:
            WingsError: another form, or a value that is given twice.
        """
        name, equals, listed = text.rpartition("=")
        if equals and not re.fullmatch(r"\w+", name):
            raise WingsError(f"--sweep {text}: {FORM}.")
        values = _values([part.strip() for part in listed.split(",")], text)
        if len(set(values)) < len(values):
            raise WingsError(f"--sweep {text}: a value is given twice; give each once.")
        return cls(name or WEIGHT, tuple(values))

    def recipes(self, recipe: MergeRecipe) -> list[MergeRecipe]:
        """The recipe at each value, which multiplies what the recipe gives the parameter.

        A parameter that the recipe does not give is the value itself; but the weights of n children
        are the value divided by n.

        Raises:
            WingsError: a parameter that the method lacks, that is no number, or that has no effect.
        """
        known = {parameter.name: parameter for parameter in recipe.method.parameters}
        numbers = [name for name, one in known.items() if _is_number(one)]
        if self.parameter not in numbers:
            raise WingsError(
                f"--sweep: {recipe.method.name} has no number '{self.parameter}'"
                f"{nearest(self.parameter, numbers)}: name one of {', '.join(numbers) or 'none'}."
            )
        self._validate_effect(recipe, known)
        return [self._at(recipe, known[self.parameter], value) for value in self.values]

    def name(self, value: float) -> str:
        """A point's name, such as `weight 0.5`."""
        return f"{self.parameter} {value:g}"

    def _at(self, recipe: MergeRecipe, parameter: Parameter, value: float) -> MergeRecipe:
        name, shared = parameter.name, recipe.settings
        if not parameter.per_model:
            setting = shared.get(name, Setting(name, 1.0)).scaled(value)
            return replace(recipe, settings={**shared, name: setting})
        share = 1 / len(recipe.children) if name == WEIGHT else 1.0
        children = []
        for child in recipe.children:
            given = child.settings.get(name) or shared.get(name) or Setting(name, share)
            settings = {**child.settings, name: given.scaled(value)}
            children.append(replace(child, settings=settings))
        return replace(recipe, children=children)

    def _validate_effect(self, recipe: MergeRecipe, known: dict[str, Parameter]) -> None:
        """Refuses weights that are divided by their sum: all values would give one model."""
        if self.parameter != WEIGHT or recipe.method.name == "linear" or "normalize" not in known:
            return
        given = recipe.settings.get("normalize")
        normalizes = given.values if given else [known["normalize"].default]
        if any(normalizes):
            raise WingsError(
                f"--sweep: {recipe.method.name} divides weights by their sum, so all values would"
                f" give one model: sweep lambda or density, or --set normalize=false."
            )


def _values(parts: Sequence[str], text: str) -> list[float]:
    if DOTS not in parts:
        return [_number(part, text) for part in parts]
    if len(parts) != 4 or parts[2] != DOTS:
        raise WingsError(f"--sweep {text}: write two values, ... and the last, as in 0,.1,...,1.")
    first, second, last = (_number(parts[n], text) for n in (0, 1, 3))
    step = second - first
    count = (last - first) / step if step else 0.0
    if not 1 < count < MOST or abs(count - round(count)) > 1e-6:
        raise WingsError(f"--sweep {text}: steps of {step:g} from {first:g} do not reach {last:g}.")
    return [round(first + n * step, 10) for n in range(round(count) + 1)]


def _number(part: str, text: str) -> float:
    try:
        value = float(part)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise WingsError(f"--sweep {text}: {part!r} is no number; {FORM}.")
    return value


def _is_number(parameter: Parameter) -> bool:
    return isinstance(parameter.default, int | float) and not isinstance(parameter.default, bool)
