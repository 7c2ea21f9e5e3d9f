"""Paths of a recipe: its file writes them relative to its own folder, Python to the working folder.

A recipe in memory has paths that the operating system can open: a relative one is relative to the
working folder, and was relative where it was written; an absolute one was absolute there.
"""

import glob
import os
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from wings.errors import WingsError
from wings.records.record_source import PathKind
from wings.records.source_files import ENDINGS
from wings.train.recipe_file import SHIPPED, dataclass_of

_TOWER_FOLDER = "local-dir:"


def folder_of(file: Path) -> str:
    """The folder that paths in a recipe file are relative to, from the working folder.

    That of the file. A shipped recipe is in the package, so its paths are relative to the working
    folder.
    """
    if SHIPPED.resolve() in file.resolve().parents:
        return "."
    folder = _normal(str(file.parent))
    if not os.path.isabs(folder):
        return folder
    # Upwards from the working folder, so that only a path that was written absolute is absolute.
    return os.path.relpath(os.path.realpath(folder) if ".." in Path(folder).parts else folder)


def open_paths(
    cls: type, values: Any, folder: str, where: str, given: Sequence[str] = ()
) -> dict[str, Any]:
    """Values of a recipe file with paths that can be opened from the working folder.

    Args:
        cls: the dataclass of the values.
        values: values of the file.
        folder: of the file, see `folder_of`.
        where: the file, for errors.
        given: dotted keys from the command line, whose paths are relative to the working folder.

    Raises:
        WingsError: a name that is no folder there, but one in the working folder.
    """

    def change(text: str, place: "_Place") -> str:
        is_given = any(f"{place.key}.".startswith(f"{key}.") for key in given)
        if is_given or _is_absolute(text):
            return text
        if not place.is_path(text, folder):
            _validate_name(text, place, folder, where)
            return text
        joined = os.path.join(folder, text)
        if place.is_pattern(text, joined):
            # Brackets in the folder's own name are no pattern.
            joined = os.path.join(glob.escape(folder), text)
        return place.as_path(_normal(joined), ".")

    return _changed(cls, values, change)


def written_paths(cls: type, values: Any, folder: Path) -> dict[str, Any]:
    """Values of a recipe in memory with paths relative to `folder`; absolute ones stay."""

    def change(text: str, place: "_Place") -> str:
        if _is_absolute(text) or not place.is_path(text, "."):
            return text
        here, there = os.getcwd(), str(folder.resolve())
        if place.is_pattern(text, text):
            here, there = glob.escape(here), glob.escape(there)
        path = os.path.relpath(os.path.join(here, text), there)
        if not same_place(os.path.join(there, path), os.path.join(here, text)):
            path = os.path.relpath(os.path.realpath(text), there)
        return place.as_path(path, there)

    return _changed(cls, values, change)


def located_paths(cls: type, values: Any) -> dict[str, Any]:
    """Values of a recipe in memory with absolute paths without links, to compare recipes."""

    def change(text: str, place: "_Place") -> str:
        return os.path.realpath(os.path.expanduser(text)) if place.is_path(text, ".") else text

    return _changed(cls, values, change)


def same_place(one: str, other: str) -> bool:
    """True if two paths lead to the same file or folder, which need not exist."""
    first, second = (os.path.realpath(os.path.expanduser(path)) for path in (one, other))
    return first == second


class _Place:
    """A path's place in a recipe: its dotted key, its kind, and the mapping that has it."""

    def __init__(self, key: str, kind: PathKind, siblings: Mapping[str, Any]) -> None:
        self.key, self.kind, self.siblings = key, kind, siblings

    def is_path(self, text: str, folder: str) -> bool:
        """True if the text is a path, not a name on the Hub; `folder` is that of a relative one."""
        kind = self.kind
        if "://" in text:
            return False
        if kind is PathKind.FILE or (kind is PathKind.RECORDS and not self.siblings.get("split")):
            return True
        # `ORG/NAME` is a name where no such folder exists; only a checkpoint's needs its ORG.
        slashes = (1,) if kind is PathKind.CHECKPOINT else (0, 1)
        return (
            text.startswith((".", "/", "~"))
            or text.count("/") not in slashes
            or text.lower().endswith((*ENDINGS, ".gguf"))
            or os.path.exists(os.path.join(folder, text))
        )

    def as_path(self, path: str, folder: str) -> str:
        """The path, with `./` if it would read as a name on the Hub; `folder` as in `is_path`."""
        return path if self.is_path(path, folder) else os.path.join(".", path)

    def is_pattern(self, text: str, path: str) -> bool:
        """True if the text is a pattern; `path` leads to the file of that very name."""
        return self.kind is PathKind.RECORDS and glob.has_magic(text) and not os.path.exists(path)


def _is_absolute(text: str) -> bool:
    return os.path.isabs(text) or text.startswith("~")


def _normal(path: str) -> str:
    """The shortest form of a path, unless it has a link before `..`, where that leads elsewhere."""
    normal = os.path.normpath(path) if os.path.isabs(path) else os.path.relpath(path)
    return normal if same_place(normal, path) else path


def _validate_name(text: str, place: _Place, folder: str, where: str) -> None:
    if os.path.isdir(text):
        raise WingsError(
            f"{where}: {place.key}: {text} is a folder from the working folder, but not from the"
            f" recipe's; write {os.path.relpath(text, folder)}."
        )


def _changed(cls: type, values: Any, change: Callable[[str, _Place], str]) -> dict[str, Any]:
    values = deepcopy(values)
    for mapping, name, place in list(_places(cls, values, "")):
        text, prefix = mapping[name], ""
        if place.kind is PathKind.TOWER:
            if not text.startswith(_TOWER_FOLDER):
                continue
            prefix, text = _TOWER_FOLDER, text.removeprefix(_TOWER_FOLDER)
            place = _Place(place.key, PathKind.FILE, mapping)
        if text.strip():
            mapping[name] = prefix + change(text, place)
    return values


def _places(cls: type, values: Any, prefix: str) -> Iterator[tuple[Any, str, _Place]]:
    """Mapping, key and place of every path in the values of a dataclass."""
    if not isinstance(values, Mapping):
        return
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        value, key = values.get(name), f"{prefix}{name}"
        kind, inner = path_kind(hint), dataclass_of(hint)
        if kind is not None and isinstance(value, str):
            yield values, name, _Place(key, kind, values)
        elif kind in (PathKind.TOWER, PathKind.MODEL) and isinstance(value, Mapping):
            if isinstance(value.get("model_name"), str):
                yield value, "model_name", _Place(f"{key}.model_name", kind, value)
        elif inner is not None and isinstance(value, list):
            for number, entry in enumerate(value):
                yield from _places(inner, entry, f"{key}.{number}.")
        elif inner is not None:
            yield from _places(inner, value, f"{key}.")


def path_kind(hint: Any) -> PathKind | None:
    """The kind of path that a type stands for: `Annotated` with one, maybe within a union."""
    for mark in getattr(hint, "__metadata__", ()):
        if isinstance(mark, PathKind):
            return mark
    options = typing.get_args(hint)
    return next((kind for option in options if (kind := path_kind(option)) is not None), None)
