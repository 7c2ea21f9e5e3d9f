"""Identities of what a recipe's paths point to, to notice that data changed before a resume."""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from wings.errors import WingsError
from wings.records.dataset_records import is_saved
from wings.records.formats import to_messages
from wings.records.records import Records
from wings.records.source_files import ENDINGS, source_files
from wings.train.recipe import DataSource, Recipe

from .dataset import ConversationDataset

# Bytes that are read of a file: all of a small one, blocks over the whole length of a large one.
SAMPLE, BLOCK = 2**22, 2**16
# Files of a source, and records of it, whose content is read.
FILES, RECORDS = 64, 16
# Files of a model's folder that make the model, besides its weights.
_OF_MODELS = (".json", ".jinja", ".txt", ".model", ".safetensors", ".bin", ".pt")

Identity = dict[str, Any]


def identities(recipe: Recipe, data: ConversationDataset | None) -> dict[str, Identity]:
    """Identity of each path of a recipe, by its key.

    A file's identity is its size, its time and a digest of a sample of it. A source's is that of
    its files, its number of records, and a digest of a few records with their images. Files with
    relative paths are named from the output folder, so that they may be moved together with it.

    Args:
        recipe: the recipe.
        data: its opened training data; None if other data are used.
    """
    found: dict[str, Identity] = {}
    if data is not None:
        for n, (source, records, folder) in enumerate(
            zip(data.sources, data.records, data.folders, strict=True)
        ):
            found[f"data.{n}"] = {
                "files": _files(_paths(source)),
                "records": len(records),
                "sample": None if source.stream else _digest_of_records(records, folder),
            }
        if recipe.text_turns:
            source = DataSource(recipe.text_turns.path)
            found["text_turns"] = {"files": _files(_paths(source))}
    for n, held_out in enumerate(recipe.evaluate.data):
        found[f"evaluate.data.{n}"] = {"files": _files(_paths(held_out))}
    models = {"start": recipe.start}
    if recipe.model:
        models["model.text"] = recipe.model.text
        for key in ("vision", "audio"):
            encoder = getattr(recipe.model, key)
            named = encoder.get("model_name") if isinstance(encoder, dict) else encoder
            models[f"model.{key}"] = None if named is None else str(named)
    for key, name in models.items():
        folder = Path((name or "").removeprefix("local-dir:")).expanduser()
        if name and folder.is_dir():
            paths = [path for path in sorted(folder.iterdir()) if path.suffix in _OF_MODELS]
            found[key] = {"files": _files(paths)}
    output = Path(recipe.output).expanduser().resolve()
    for identity in found.values():
        files = identity["files"]
        identity["files"] = {_from(output, name): files[name] for name in files}
    return found


def _from(folder: Path, name: str) -> str:
    return name if os.path.isabs(name) else os.path.relpath(os.path.abspath(name), folder)


def difference(saved: dict[str, Identity], now: dict[str, Identity]) -> str | None:
    """The first difference as a phrase, or None. A file's time alone is no difference."""
    for key, identity in now.items():
        before = saved.get(key)
        if before is None:
            return f"{key} was not there"
        for name, there in identity["files"].items():
            if name not in before["files"]:
                return f"{key}: {name} is new"
            size, _, digest = before["files"][name]
            if there[0] != size:
                return f"{key}: {name} has {there[0]:,} bytes instead of {size:,}"
            if there[2] != digest:
                return f"{key}: the content of {name} changed"
        for name in before["files"]:
            if name not in identity["files"]:
                return f"{key}: {name} is missing"
        if identity.get("records") != before.get("records"):
            return f"{key} has {identity['records']:,} records instead of {before['records']:,}"
        if identity.get("sample") != before.get("sample"):
            return f"{key}: records or their images changed"
    return None


def retouched(saved: dict[str, Identity], now: dict[str, Identity]) -> list[str]:
    """Large files whose time changed, so that their unread part may have changed too."""
    return [
        name
        for key, identity in now.items()
        for name, there in identity["files"].items()
        if there[0] > SAMPLE and there != saved[key]["files"][name]
    ]


def _paths(source: DataSource) -> list[Path]:
    path = Path(source.path).expanduser()
    if is_saved(source.path) or (source.split and path.suffix.lower() not in ENDINGS):
        # A dataset's folder; a name on the Hub has no files here.
        return sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else []
    return source_files(source.path)


def validate_unchanged(record: Path, now: dict[str, Identity], allow_changed: bool) -> None:
    """Compare the data of a run that is about to resume with those that it began with.

    Large files with another time, but the same size and sample, are named on stderr.

    Args:
        record: file in the run's folder with the identities it began with.
        now: identities of the data.
        allow_changed: go on after a difference, and name it on stderr.

    Raises:
        WingsError: there is a difference.
    """
    try:
        saved = json.loads(record.read_text(encoding="utf-8"))
        changed = difference(saved, now)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        changed = "the record of its data is missing or damaged"
    if changed and not allow_changed:
        raise WingsError(
            f"output: the data changed since the run in {record.parents[1]} began ({changed});"
            " restore them, or set allow_changed_data: true to go on with the changed data."
        )
    if changed:
        print(f"The data changed since the run began: {changed}.", file=sys.stderr, flush=True)
    elif touched := retouched(saved, now):
        print(
            f"{touched[0]} has a new time since the run began, but the same size and sample;"
            " the run continues with it.",
            file=sys.stderr,
            flush=True,
        )


def _files(paths: list[Path]) -> dict[str, list[Any]]:
    """Size, time and digest of files; of many files only some are read."""
    read = set(np.linspace(0, len(paths) - 1, min(FILES, len(paths)), dtype=int).tolist())
    found = {}
    for n, path in enumerate(paths):
        stat = path.stat()
        found[str(path)] = [
            stat.st_size, stat.st_mtime_ns, _digest_of_file(path) if n in read else None,
        ]  # fmt: skip
    return found


def _digest_of_file(path: Path) -> str:
    size, digest = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as file:
        if size <= SAMPLE:
            digest.update(file.read())
        else:
            for start in np.linspace(0, size - BLOCK, SAMPLE // BLOCK, dtype=int).tolist():
                file.seek(start)
                digest.update(file.read(BLOCK))
    return digest.hexdigest()


def _digest_of_records(records: Records, folder: str | Path) -> str:
    digest = hashlib.sha256()
    count = min(RECORDS, len(records))
    for number in np.linspace(0, len(records) - 1, count, dtype=int).tolist():
        try:
            for message in to_messages(records[number], folder):
                for part in message["content"]:
                    digest.update(_content(part))
        except WingsError as error:
            digest.update(str(error).encode("utf-8", "replace"))
    return digest.hexdigest()


def _content(part: dict[str, Any]) -> bytes:
    if part["type"] != "image":
        return json.dumps(part, default=str).encode()
    image = part["image"]
    if isinstance(image, bytes):
        return hashlib.sha256(image).digest()
    path = Path(image)
    # A missing image is known by its absence, wherever its folder is.
    return _digest_of_file(path).encode() if os.path.isfile(path) else path.name.encode()
