"""Overrides: `dotted.key=value` from the command line, set in what a recipe file holds."""

from typing import Any

import yaml

from wings.errors import WingsError


def override(values: dict[str, Any], text: str) -> None:
    """Set one `key=value` in nested mappings and lists, in place; the value is read as YAML.

    Raises:
        WingsError: no `=`, a value where keys are expected, or an entry that a list lacks.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise WingsError(
            f"{text!r}: an override is written key=value, as learning_rates.projector=1e-3."
        )
    *parents, last = key.split(".")
    place: Any = values
    for part in parents:
        if isinstance(place, dict) and place.get(part) is None:
            place[part] = {}
        place = place[_entry(place, part, key)]
    place[_entry(place, last, key)] = yaml.safe_load(value)


def _entry(place: Any, part: str, key: str) -> str | int:
    if isinstance(place, dict):
        return part
    if not isinstance(place, list):
        raise WingsError(f"{key}: there is a single value before '{part}', not a mapping.")
    if not part.isdigit() or int(part) >= len(place):
        raise WingsError(f"{key}: '{part}' is not an entry of a list of {len(place)}, from 0.")
    return int(part)
