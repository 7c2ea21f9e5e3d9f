"""A strict reader of settings: a mapping becomes a dataclass, or a sentence says what is wrong."""

import contextlib
import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from wings.errors import WingsError, nearest

_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    dict: "a mapping",
    list: "a list",
}


def fill(cls: Any, values: Any, where: str) -> Any:
    """Make the dataclass `cls` from a mapping.

    Args:
        cls: a dataclass whose fields are typed with str, int, float, bool, `Literal`, `X | None`,
            `list[X]`, `dict[str, X]`, unions of those, or other such dataclasses.
        values: what YAML gave.
        where: the file (and key path) that an error names, such as `align.yaml: data.0`.

    Raises:
        WingsError: an unknown or missing key or a value of another type, with file and key path.
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
    # `steps:` with nothing behind it is how a recipe says "the default".
    given = {key: value for key, value in values.items() if value is not None or key in needed}
    return cls(
        **{key: convert(hints[key], value, _path(where, key)) for key, value in given.items()}
    )


def convert(kind: Any, value: Any, where: str) -> Any:
    """Check `value` against a type and return it, with nested mappings made into dataclasses."""
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
    # `True` is an int for Python, never for someone who wrote a recipe.
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
    # YAML 1.1 reads `1e-3` (no dot) as a text; the person meant the number.
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
