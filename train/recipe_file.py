"""Recipe files: finds shipped ones, and reads a mapping into a dataclass."""

import dataclasses
import os
import reprlib
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from wings.errors import WingsError, nearest

SHIPPED = Path(__file__).parent / "recipes"
# The largest whole number.
_LARGEST = 2**53
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
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
                f"{where}: the key '{name}' is missing; it must be {describe_type(hints[name])}."
            )
    # `steps:` without a value stands for the default.
    given = {key: value for key, value in values.items() if value is not None or key in needed}
    return cls(
        **{key: convert(hints[key], value, _path(where, key)) for key, value in given.items()}
    )


def convert(kind: Any, value: Any, where: str) -> Any:
    """Validate `value` against a type and return it, with nested mappings as dataclasses."""
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, typing.cast(type, kind)):
            return fill(kind, value, where)
        validate_types(value, where)
        return value
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, kind, value, where)
    if origin is Literal:
        if value not in arguments:
            close = nearest(str(value), [str(argument) for argument in arguments])
            raise WingsError(f"{where}: {_show(value)} is not one of {describe_type(kind)}{close}.")
        return value
    if origin is list:
        _require(isinstance(value, list | tuple), kind, value, where)
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
    if kind is str:
        return _text(value, where)
    # `True` is an int in Python, but not in a recipe.
    _require(
        isinstance(value, kind) and (kind is bool or not isinstance(value, bool)),
        kind,
        value,
        where,
    )
    if kind is int and abs(value) > _LARGEST:
        raise WingsError(f"{where}: {_show(value)} is too large.")
    return value


def validate_types(instance: Any, where: str) -> None:
    """Validate all fields of a dataclass that was made in Python, and convert them in place.

    Raises:
        WingsError: a value of another type; names `where` and the field.
    """
    hints = typing.get_type_hints(type(instance))
    for name in (field.name for field in dataclasses.fields(instance)):
        value = convert(hints[name], vars(instance)[name], _path(where, name))
        # Some are frozen.
        object.__setattr__(instance, name, value)


def _text(value: Any, where: str) -> str:
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    _require(isinstance(value, str), str, value, where)
    if not value.strip():
        raise WingsError(f"{where}: is empty; write a text, or remove the key.")
    if not value.isprintable():
        raise WingsError(f"{where}: {_show(value)} has letters that cannot be printed.")
    return value


def _convert_union(arguments: tuple, kind: Any, value: Any, where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    choices = [argument for argument in arguments if argument is not type(None)]
    if len(choices) == 1:
        return convert(choices[0], value, where)
    for choice in choices:
        is_mapping = dataclasses.is_dataclass(choice) and isinstance(value, Mapping)
        if is_mapping or isinstance(value, typing.get_origin(choice) or choice):
            return convert(choice, value, where)
    raise WingsError(f"{where}: {_show(value)} is not {describe_type(kind)}.")


def _number(value: Any, where: str) -> float:
    _require(isinstance(value, int | float) and not isinstance(value, bool), float, value, where)
    if not abs(value) <= sys.float_info.max:
        raise WingsError(f"{where}: {_show(value)} is not a finite number.")
    return float(value)


def _require(good: bool, kind: Any, value: Any, where: str) -> None:
    if not good:
        raise WingsError(f"{where}: expected {describe_type(kind)}, got {_show(value)}.")


def describe_type(kind: Any) -> str:
    """A type of a recipe's value in words."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(
            "nothing" if argument is type(None) else describe_type(argument)
            for argument in arguments
        )
    if origin is Literal:
        return ", ".join(f"'{argument}'" for argument in arguments)
    if dataclasses.is_dataclass(kind):
        return f"a mapping with {', '.join(field.name for field in dataclasses.fields(kind))}"
    if origin is list:
        return f"a list, each entry {describe_type(arguments[0])}"
    return _WORDS.get(origin or kind, str(kind))


def dataclass_of(kind: Any) -> Any:
    """The dataclass in a type such as `list[X]` or `X | None`, or None."""
    if dataclasses.is_dataclass(kind):
        return kind
    inner = (dataclass_of(option) for option in typing.get_args(kind))
    return next((found for found in inner if found is not None), None)


def _path(where: str, key: object) -> str:
    """`align.yaml` + `data` -> `align.yaml: data`; and + 0 -> `align.yaml: data.0`."""
    return f"{where}.{key}" if ": " in where else f"{where}: {key}"


def _show(value: object) -> str:
    # Not `repr`, which would write an alias as often as it is met, and fails for huge numbers.
    text = _SHORT.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
