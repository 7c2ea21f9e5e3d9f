"""The reference of every recipe key, read from the dataclasses: as text and as JSON schema."""

import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from wings.config import WingsConfig
from wings.errors import WingsError, nearest
from wings.train.recipe import RATES, Recipe
from wings.train.recipe_file import describe_type
from wings.train.recipe_validation import wings_options

# Kinds of JSON values.
_JSON = {int: "integer", float: "number", bool: "boolean", str: "string", dict: "object"}
_INTRODUCTION = """# Recipe keys

Every key of a recipe, its type, default and meaning. `N` stands for an entry of a list.

`wings train --keys` prints the same, and `wings train --keys data` the keys that begin so.
`wings train --schema` prints a JSON schema, by which an editor completes and checks a recipe. This
page is made from the code.
"""


@dataclass(frozen=True)
class RecipeKey:
    """One key.

    Attributes:
        path: dotted, with `N` for an entry of a list.
        type: of its value, in words.
        default: as YAML writes it; None for a key that must be given.
        text: meaning.
    """

    path: str
    type: str
    default: str | None
    text: str

    def __str__(self) -> str:
        default = "required" if self.default is None else f"default {self.default}"
        return f"{self.path}: {self.type}; {default}\n    {self.text}"


def recipe_keys(prefix: str = "") -> list[RecipeKey]:
    """Every key whose path begins with `prefix`, in the order of the dataclasses."""
    return [key for key in _keys(Recipe, "") if key.path.startswith(prefix)]


def print_reference(prefix: str | None, schema: bool) -> None:
    """Prints the keys that begin with `prefix`, or the schema.

    Raises:
        WingsError: no key begins so.
    """
    if schema:
        print(json.dumps(recipe_schema(), indent=2))
        return
    keys = recipe_keys(prefix or "")
    if not keys:
        names = [key.path for key in recipe_keys()]
        raise WingsError(f"No recipe key begins with {prefix!r}{nearest(prefix or '', names)}.")
    print("\n".join(map(str, keys)))


def reference_page() -> str:
    """The page `docs/recipe.md`."""
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key in recipe_keys():
        default = "required" if key.default is None else f"`{key.default}`"
        cells = (f"`{key.path}`", key.type, default, key.text)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return _INTRODUCTION + "\n" + "\n".join(rows) + "\n"


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe file (draft 2020-12)."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A recipe of wings train",
        **_schema(Recipe),
    }


def _keys(cls: Any, prefix: str) -> Iterator[RecipeKey]:
    hints, texts = typing.get_type_hints(cls), attribute_texts(cls)
    for field in dataclasses.fields(cls):
        path, kind = f"{prefix}{field.name}", hints[field.name]
        yield RecipeKey(path, _words(kind), _default(field), texts[field.name])
        inner, entry = _inner(kind)
        if inner is not None:
            yield from _keys(inner, f"{path}.{'N.' if entry else ''}")
    if cls is Recipe:
        yield from _open_keys()


def _open_keys() -> Iterator[RecipeKey]:
    """The keys of the two mappings that are no dataclasses: `wings` and `learning_rates`."""
    texts = attribute_texts(WingsConfig)
    fields = {field.name: field for field in dataclasses.fields(WingsConfig)}
    for name in wings_options():
        kind, default = fields[name].type, _yaml(fields[name].default)
        yield RecipeKey(f"wings.{name}", _words(kind), default, texts[name])
    for group in RATES["instruct"]:
        rates = ", ".join(f"{stage} {of[group]:g}" for stage, of in RATES.items() if group in of)
        text = "Peak learning rate of this parameter group."
        yield RecipeKey(f"learning_rates.{group}", "a number", rates, text)


def attribute_texts(cls: type) -> dict[str, str]:
    """The meaning of every attribute by name, from the docstrings of a class and its bases."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        doc = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        match = re.search(r"^(?:Attributes|Args):\n((?:    .*\n?|\n)*)", doc, re.MULTILINE)
        for names, text in re.findall(
            r"^    ([a-z_0-9, ]+): ((?:.+\n?)(?:^        .*\n?)*)", match[1] if match else "", re.M
        ):
            sentence = " ".join(text.split())
            sentence = sentence[0].upper() + sentence[1:]
            texts |= dict.fromkeys(names.split(", "), sentence.rstrip(".") + ".")
    return texts


def _inner(kind: Any) -> tuple[Any, bool]:
    """The dataclass in a type, and whether it is an entry of a list."""
    for option in _options(kind):
        if dataclasses.is_dataclass(option):
            return option, False
        if typing.get_origin(option) is list and dataclasses.is_dataclass(
            typing.get_args(option)[0]
        ):
            return typing.get_args(option)[0], True
    return None, False


def _options(kind: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return typing.get_args(kind) if is_union else (kind,)


def _words(kind: Any) -> str:
    """A type in words, without None."""
    words = []
    for option in _options(kind):
        inner, entry = _inner(option)
        if inner is not None:
            words.append("a list of mappings" if entry else "a mapping")
        elif option is not type(None) and option is not tuple:
            words.append(describe_type(option))
    return " or ".join(dict.fromkeys(words))


def _default(field: dataclasses.Field) -> str | None:
    if field.default_factory is not dataclasses.MISSING:
        return _yaml(field.default_factory())
    return None if field.default is dataclasses.MISSING else _yaml(field.default)


def _yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_yaml, value))}]"
    if dataclasses.is_dataclass(value):
        pairs = (f"{name}: {_yaml(one)}" for name, one in vars(value).items())
        return f"{{{', '.join(pairs)}}}"
    return str(value)


def _schema(kind: Any) -> dict[str, Any]:
    options = _options(kind)
    if len(options) > 1:
        return {"anyOf": [_schema(option) for option in options]}
    if dataclasses.is_dataclass(kind):
        return _object_schema(kind)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is list:
        return {"type": "array", "items": _schema(arguments[0])}
    if kind is type(None):
        return {"type": "null"}
    if kind in (list, tuple):
        return {"type": "array"}
    return {"type": _JSON[origin or kind]} if (origin or kind) in _JSON else {}


def _object_schema(cls: Any) -> dict[str, Any]:
    hints, texts = typing.get_type_hints(cls), attribute_texts(cls)
    properties = {}
    for field in dataclasses.fields(cls):
        of_field = {**_schema(hints[field.name]), "description": texts[field.name]}
        if cls is Recipe and field.name == "wings":
            of_field |= _open_schema(_wings_schemas())
        elif cls is Recipe and field.name == "learning_rates":
            rate = {"type": "number", "exclusiveMinimum": 0}
            of_field |= _open_schema(dict.fromkeys(RATES["instruct"], rate))
        properties[field.name] = of_field
    needed = [field.name for field in dataclasses.fields(cls) if _default(field) is None]
    return {**_open_schema(properties), "required": needed}


def _wings_schemas() -> dict[str, Any]:
    texts = attribute_texts(WingsConfig)
    fields = {field.name: field for field in dataclasses.fields(WingsConfig)}
    return {
        name: {**_schema(fields[name].type), "description": texts[name]} for name in wings_options()
    }


def _open_schema(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties}
