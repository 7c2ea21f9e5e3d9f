"""The reference of every recipe key, read from the dataclasses: as text and as JSON schema."""

import dataclasses
import inspect
import json
import re
import textwrap
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from wings.config import IMAGE_FIELDS, WingsConfig
from wings.errors import WingsError, nearest
from wings.processing.item_encoder import AUDIO
from wings.records.record_source import PathKind
from wings.sense import FIELDS
from wings.train.recipe import PARTS, RATES, Recipe
from wings.train.recipe_file import describe_type
from wings.train.recipe_paths import path_kind
from wings.train.recipe_validation import SENSE_OPTIONS, wings_options
from wings.train.stages import groups_of, parts_of_sense, role_of

_PATHS = {
    PathKind.FILE: "a path",
    PathKind.RECORDS: "a path",
    PathKind.MODEL: "a path or a name",
    PathKind.CHECKPOINT: "a path or a name",
}
# Kinds of JSON values.
_JSON = {int: "integer", float: "number", bool: "boolean", str: "string", dict: "object"}
_INTRODUCTION = """# Recipe keys

Every key of a recipe. `wings train --keys` prints the table, and `wings train --keys data` the keys
that begin so. This page is made from the code.

Recipes are YAML 1.2: `on`, `no` and dates are texts, `1e-4` is a number. A key that is written
twice is refused.

## Paths

A relative path in a recipe file is relative to the folder of that file. So a recipe can be started
from anywhere, and a folder of recipes, data and runs can be moved. The `recipe.yaml` in the folder
of a run follows the same rule. Three cases differ:

* Values on the command line (`key=value`) and in Python are relative to the working folder.
* The paths of a shipped recipe, which is in the package, are relative to the working folder.
* Images in a record are relative to `images`, or else to the folder of the records' file.

A name of the Hub, such as `Qwen/Qwen2.5-0.5B`, is read as a path only where that folder exists.

## In an editor

`wings train --schema > recipe.schema.json` writes a JSON schema. Editors with a YAML language
server complete and check the keys of a file with this first line:

```yaml
# yaml-language-server: $schema=recipe.schema.json
stage: align
```

## Keys

`N` stands for an entry of a list.
"""


@dataclass(frozen=True)
class RecipeKey:
    """One key.

    Attributes:
        path: dotted, with `N` for an entry of a list.
        type: of its value, in words.
        default: as YAML writes it; None for a key that must be given.
        unit: of a number, or an empty text.
        text: meaning.
    """

    path: str
    type: str
    default: str | None
    unit: str
    text: str

    def __str__(self) -> str:
        default = "required" if self.default is None else f"default {self.default}"
        kind = f"{self.type}, in {self.unit}" if self.unit else self.type
        lines = (f"{self.path}: {kind}; {default}", f"    {self.text}")
        return "\n".join(
            textwrap.fill(
                line, 80, subsequent_indent=" " * 4, break_long_words=False, break_on_hyphens=False
            )
            for line in lines
        )


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
    rows = ["| key | type | unit | default | meaning |", "|---|---|---|---|---|"]
    for key in recipe_keys():
        default = "required" if key.default is None else f"`{key.default}`"
        cells = (f"`{key.path}`", key.type, key.unit, default, key.text)
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
    marked = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        path, kind = f"{prefix}{field.name}", hints[field.name]
        place = path_kind(marked[field.name])
        words = _words(kind)
        if place in _PATHS:
            words = _PATHS[place] + " or a mapping" * ("a mapping" in words)
        yield RecipeKey(path, words, _default(field), *texts[field.name])
        inner, entry = _inner(kind)
        if inner is not None:
            yield from _keys(inner, f"{path}.{'N.' if entry else ''}")
    if cls is Recipe:
        yield from _open_keys()


def _open_keys() -> Iterator[RecipeKey]:
    """The keys of the mappings that are no dataclasses: `wings`, `senses`, `learning_rates`."""
    texts = attribute_texts(WingsConfig)
    fields = {field.name: field for field in dataclasses.fields(WingsConfig)}
    for name in wings_options():
        default = _yaml(fields[name].default)
        if name in PARTS["align"]:
            default = ", ".join(f"{stage} {_yaml(parts[name])}" for stage, parts in PARTS.items())
        yield RecipeKey(f"wings.{name}", _words(fields[name].type), default, *texts[name])
    for name in SENSE_OPTIONS:
        field = IMAGE_FIELDS.get(name, name)
        default = _yaml(FIELDS[name])
        if name in parts_of_sense("align", AUDIO):
            default = ", ".join(
                f"{stage} {_yaml(parts_of_sense(stage, AUDIO)[name])}" for stage in RATES
            )
        text = f"Of sounds, as wings.{field} of images."
        yield RecipeKey(f"senses.audio.{name}", _words(fields[field].type), default, "", text)
    for group in groups_of(AUDIO):
        role = role_of(group)
        rates = ", ".join(f"{stage} {of[role]:g}" for stage, of in RATES.items() if role in of)
        text = "Peak learning rate of this parameter group."
        yield RecipeKey(f"learning_rates.{group}", "a number", rates, "", text)


def attribute_texts(cls: type) -> dict[str, tuple[str, str]]:
    """Unit and meaning of every attribute, from the docstrings of a class and its bases.

    A docstring has `name (unit): meaning` or `name: meaning`.
    """
    texts: dict[str, tuple[str, str]] = {}
    for base in reversed(cls.__mro__):
        doc = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        match = re.search(r"^(?:Attributes|Args):\n((?:    .*\n?|\n)*)", doc, re.MULTILINE)
        for names, unit, text in re.findall(
            r"^    ([a-z_0-9, ]+?)(?: \(([a-z ]+)\))?: ((?:.+\n?)(?:^        .*\n?)*)",
            match[1] if match else "",
            re.MULTILINE,
        ):
            sentence = " ".join(text.split())
            sentence = sentence[0].upper() + sentence[1:]
            texts |= dict.fromkeys(names.split(", "), (unit, sentence.rstrip(".") + "."))
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
    # Its keys have defaults of their own, listed after it.
    if dataclasses.is_dataclass(value):
        return "{}"
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
        of_field = {**_schema(hints[field.name]), "description": _described(texts[field.name])}
        if cls is Recipe and field.name == "wings":
            of_field |= _open_schema(_wings_schemas())
        elif cls is Recipe and field.name == "learning_rates":
            rate = {"type": "number", "exclusiveMinimum": 0}
            of_field |= _open_schema(dict.fromkeys(groups_of(AUDIO), rate))
        elif cls is Recipe and field.name == "senses":
            of_field |= _open_schema({AUDIO: _open_schema(_sense_schemas())})
        properties[field.name] = of_field
    needed = [field.name for field in dataclasses.fields(cls) if _default(field) is None]
    return {**_open_schema(properties), "required": needed}


def _described(text: tuple[str, str]) -> str:
    unit, meaning = text
    return f"{meaning} In {unit}." if unit else meaning


def _wings_schemas() -> dict[str, Any]:
    texts = attribute_texts(WingsConfig)
    fields = {field.name: field for field in dataclasses.fields(WingsConfig)}
    return {
        name: {**_schema(fields[name].type), "description": _described(texts[name])}
        for name in wings_options()
    }


def _sense_schemas() -> dict[str, Any]:
    fields = {field.name: field for field in dataclasses.fields(WingsConfig)}
    return {name: _schema(fields[IMAGE_FIELDS.get(name, name)].type) for name in SENSE_OPTIONS}


def _open_schema(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties}
