"""A value of a parameter that may differ from tensor to tensor, as mergekit writes it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from wings.errors import WingsError, nearest

BLOCK = re.compile(r"\.(\d+)\.")
BLOCKS = re.compile(r"blocks? (\d+)(?:(-)(\d+)?)?")
EVERY = "*"
ENTRY = ("filter", "value")


@dataclass(frozen=True)
class Condition:
    """A value for the tensors that a filter names.

    Attributes:
        value: of the parameter.
        filter: a part of a tensor's name, `blocks 8-`, `blocks 0-3`, `block 5`, or None for all.
    """

    value: Any
    filter: str | None = None

    def holds(self, tensor: str) -> bool:
        """True if the filter names a tensor."""
        if self.filter is None or self.filter == EVERY:
            return True
        if (blocks := BLOCKS.fullmatch(self.filter)) is None:
            return self.filter in tensor
        found = BLOCK.search(f".{tensor}")
        first, is_open, last = blocks.groups()
        if found is None or int(found[1]) < int(first):
            return False
        if last is not None:
            return int(found[1]) <= int(last)
        return is_open is not None or int(found[1]) == int(first)


class Setting:
    """The values of one parameter; the first condition that holds for a tensor gives its value.

    Args:
        name: of the parameter, for messages.
        value: one value, `{filter, value}`, or a list of these.

    Raises:
        WingsError: another form.
    """

    def __init__(self, name: str, value: Any) -> None:
        self.name = name
        given = value if isinstance(value, list) else [value]
        if not given:
            raise WingsError(f"{name} is an empty list: give a value.")
        self.conditions = [self._condition(one, isinstance(value, list)) for one in given]

    def _condition(self, given: Any, is_listed: bool) -> Condition:
        if not isinstance(given, dict):
            if is_listed:
                raise WingsError(
                    f"{self.name} lists {given!r}: give entries with filter and value, such as"
                    f" {{filter: blocks 8-, value: 0.5}}; gradients over the blocks are not read."
                )
            return Condition(given)
        for key in given:
            if key not in ENTRY:
                raise WingsError(
                    f"{self.name} has an entry with '{key}'{nearest(str(key), ENTRY)}: its keys are"
                    f" filter and value."
                )
        if "value" not in given or isinstance(given["value"], dict | list):
            raise WingsError(f"{self.name} has an entry without one value: give value a number.")
        filter = given.get("filter")
        if filter is not None and (not isinstance(filter, str) or not filter):
            raise WingsError(f"{self.name} has the filter {filter!r}, which must be a text.")
        return Condition(given["value"], filter)

    @property
    def values(self) -> list[Any]:
        """All values."""
        return [condition.value for condition in self.conditions]

    def scaled(self, factor: float) -> "Setting":
        """The setting with all values times a factor."""
        entries = [{"filter": c.filter, "value": c.value * factor} for c in self.conditions]
        return Setting(self.name, entries)

    def for_tensor(self, tensor: str) -> Any:
        """The value for a tensor of the LLM.

        Raises:
            WingsError: no condition holds.
        """
        for condition in self.conditions:
            if condition.holds(tensor):
                return condition.value
        raise WingsError(
            f"{self.name} has no value for {tensor}: end its list with a value without a filter."
        )

    def validate_filters(self, tensors: Iterable[str]) -> None:
        """Raises a `WingsError` for a filter that names none of the tensors."""
        names = list(tensors)
        for condition in self.conditions:
            if not any(condition.holds(name) for name in names):
                words = {word for name in names for word in name.split(".")}
                raise WingsError(
                    f"{self.name} has the filter '{condition.filter}', which names no tensor of the"
                    f" language model{nearest(str(condition.filter), words)}: use a part of a name,"
                    f" or blocks such as 'blocks 8-'."
                )

    def to_json(self) -> Any:
        """The value as it was given."""
        if len(self.conditions) == 1 and self.conditions[0].filter is None:
            return self.conditions[0].value
        return [
            {"filter": one.filter, "value": one.value} if one.filter else {"value": one.value}
            for one in self.conditions
        ]
