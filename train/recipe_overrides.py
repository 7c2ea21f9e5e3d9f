"""Overrides of a recipe: `key=value` on the command line."""

from typing import Any

from wings.errors import WingsError

from .recipe_yaml import read_yaml


def override(values: dict[str, Any], text: str) -> None:
    """Set one `key=value` in nested mappings and lists, in place; the value is YAML.

    Raises:
        WingsError: no `=`, broken YAML, a single value where keys are expected, or a missing list
            entry.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise WingsError(
            f"{text!r}: write an override as key=value, such as learning_rates.projector=1e-3."
        )
    *parents, last = key.split(".")
    new = read_yaml(value, key)
    place: Any = values
    for part in parents:
        if isinstance(place, dict) and place.get(part) is None:
            place[part] = {}
        place = place[_entry(place, part, key)]
    place[_entry(place, last, key)] = new


def _entry(place: Any, part: str, key: str) -> str | int:
    if isinstance(place, dict):
        return part
    if not isinstance(place, list):
        raise WingsError(f"{key}: the value before '{part}' is not a mapping.")
    if not part.isdecimal() or int(part) >= len(place):
        raise WingsError(f"{key}: '{part}' is no index of a list of length {len(place)}, from 0.")
    return int(part)
