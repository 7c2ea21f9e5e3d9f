"""Recipe files: finds shipped ones, applies overrides, and reads a mapping into a dataclass."""

import contextlib
import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from wings.errors import WingsError, nearest

SHIPPED = Path(__file__).parent / "recipes"
_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    dict: "a mapping",
    list: "a list",
}


def shipped_recipes() -> list[str]:
    """Names of all shipped recipes, such as `qwen2.5-7b/align`."""
    files = SHIPPED.rglob("*.yaml")
    return sorted(path.relative_to(SHIPPED).with_suffix("").as_posix() for path in files)


def find_recipe(name: str) -> Path:
    """The file of a shipped recipe; other names, and names of existing files, are paths."""
    shipped = SHIPPED / f"{name}.yaml"
    return shipped if shipped.is_file() and not Path(name).exists() else Path(name)


def override(values: dict[str, Any], text: str) -> None:
    """Set one `key=value` in nested mappings and lists, in place; the value is YAML.

    Raises:
        WingsError: no `=`, a single value where keys are expected, or a missing list entry.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise WingsError(
            f"{text!r}: write an override as key=value, such as learning_rates.projector=1e-3."
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
        raise WingsError(f"{key}: the value before '{part}' is not a mapping.")
    if not part.isdigit() or int(part) >= len(place):
        raise WingsError(f"{key}: '{part}' is no index of a list of length {len(place)}, from 0.")
    return int(part)


def fill(cls: Any, values: Any, where: str) -> Any:
    """Read a mapping into the dataclass `cls`.

    Args:
        cls: a dataclass whose fields are typed with str, int, float, bool, `Literal`, `X | None`,
            `list[X]`, `dict[str, X]`, unions of those, or other such dataclasses.
        values: the YAML value.
        where: the file (and key path) that errors name, such as `align.yaml: data.0`.

    Raises:
        WingsError: an unknown or missing key, or a value of another type.
    """
    if not isinstance(values, Mapping):
        raise WingsError(f"{where}: expected keys and values, got {_show(values)}.")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            known = "" if nearest(str(key), fields) else f"; known keys are {', '.join(fields)}"
            raise WingsError(f"{_path(where, key)}: no such key{nearest(str(key), fields)}{known}.")
    hints = typing.get_type_hints(cls)
    unset = dataclasses.MISSING
    needed = [
        name for name, field in fields.items() if field.default is field.default_factory is unset
    ]
    for name in needed:
        if name not in values:
            raise WingsError(
                f"{where}: the key '{name}' is missing; it must be {_describe(hints[name])}."
            )
    # `steps:` without a value stands for the default.
    given = {key: value for key, value in values.items() if value is not None or key in needed}
    return cls(
        **{key: convert(hints[key], value, _path(where, key)) for key, value in given.items()}
    )


def convert(kind: Any, value: Any, where: str) -> Any:
    """Validate `value` against a type and return it, with nested mappings as dataclasses."""
    if dataclasses.is_dataclass(kind):
        return fill(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, kind, value, where)
    if origin is Literal:
        if value not in arguments:
            close = nearest(str(value), [str(argument) for argument in arguments])
            raise WingsError(f"{where}: {_show(value)} is not one of {_describe(kind)}{close}.")
        return value
    if origin is list:
        _require(isinstance(value, list), kind, value, where)
        return [convert(arguments[0], item, _path(where, n)) for n, item in enumerate(value)]
    if origin is dict:
        _require(isinstance(value, Mapping), kind, value, where)
        return {
            str(key): convert(arguments[1], item, _path(where, key)) for key, item in value.items()
        }
    if kind is Any:
        return value
    if kind is float:
        return _number(value, where)
    # `True` is an int in Python, but not in a recipe.
    _require(
        isinstance(value, kind) and (kind is bool or not isinstance(value, bool)),
        kind,
        value,
        where,
    )
    return value


def _convert_union(arguments: tuple, kind: Any, value: Any, where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    choices = [argument for argument in arguments if argument is not type(None)]
    if len(choices) == 1:
        return convert(choices[0], value, where)
    for choice in choices:
        if isinstance(value, typing.get_origin(choice) or choice):
            return convert(choice, value, where)
    raise WingsError(f"{where}: {_show(value)} is not {_describe(kind)}.")


def _number(value: Any, where: str) -> float:
    # YAML 1.1 reads `1e-3` (no dot) as a string.
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    _require(isinstance(value, int | float) and not isinstance(value, bool), float, value, where)
    return float(value)


def _require(good: bool, kind: Any, value: Any, where: str) -> None:
    if not good:
        raise WingsError(f"{where}: expected {_describe(kind)}, got {_show(value)}.")


def _describe(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(
            "nothing" if argument is type(None) else _describe(argument) for argument in arguments
        )
    if origin is Literal:
        return ", ".join(f"'{argument}'" for argument in arguments)
    if dataclasses.is_dataclass(kind):
        return f"a mapping with {', '.join(field.name for field in dataclasses.fields(kind))}"
    if origin is list:
        return f"a list, each entry {_describe(arguments[0])}"
    return _WORDS.get(origin or kind, str(kind))


def _path(where: str, key: object) -> str:
    """`align.yaml` + `data` -> `align.yaml: data`; and + 0 -> `align.yaml: data.0`."""
    return f"{where}.{key}" if ": " in where else f"{where}: {key}"


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
