"""Values of a recipe: those of its file, with `key=value` of the command line over them."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wings.errors import WingsError

from .recipe_paths import folder_of, open_paths
from .recipe_yaml import read_yaml


def read_values(cls: type, path: str | Path, overrides: Sequence[str] = ()) -> Any:
    """The values of a recipe file, with paths that can be opened from the working folder.

    Args:
        cls: `Recipe`, or a part of it; its types tell which values are paths.
        path: the file.
        overrides: `dotted.key=value` with YAML values; their paths stay as they are.

    Raises:
        WingsError: no such file, broken YAML, or an override that does not fit.
    """
    path = Path(path).expanduser()
    # os.path, because a name that is too long is an error of pathlib.
    if not os.path.isfile(path):
        raise WingsError(f"{path!s:.200}: no such recipe file; check the name.")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WingsError(f"{path}: not readable ({error}).") from error
    values = read_yaml(text, str(path))
    if not isinstance(values, dict):
        return values
    for change in overrides:
        override(values, change)
    given = [change.partition("=")[0] for change in overrides]
    return open_paths(cls, values, folder_of(path), str(path), given)


def readable_values(cls: type, path: Path) -> dict[str, Any]:
    """The values of a recipe file as `read_values` reads them; none if it is no recipe."""
    with contextlib.suppress(WingsError):
        values = read_values(cls, path)
        if isinstance(values, dict):
            return values
    return {}


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
