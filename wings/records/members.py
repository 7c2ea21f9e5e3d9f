"""Converts the files of one key in a tar shard (`x.jpg`, `x.json`, `x.txt`) to a record."""

import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from wings.errors import WingsError

# Extensions of the sources of each kind.
SOURCES = {
    "image": ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"),
    "audio": ("wav", "flac", "ogg", "opus", "mp3"),
    "video": ("mp4", "mov", "mkv", "webm", "avi"),
}
NOUNS = {"image": "images", "audio": "sounds", "video": "videos"}
TEXTS = ("json", "txt", "caption")


def is_used(extension: str) -> bool:
    """True if a member with this extension (`jpg`, `0.png`, `json`) is part of a record."""
    return kind_of(extension) is not None or _last(extension) in TEXTS


def kind_of(extension: str) -> str | None:
    """The kind of a source by its extension (`jpg`, `0.png`, `mp4`); None for a text."""
    return next((kind for kind, known in SOURCES.items() if _last(extension) in known), None)


def to_record(key: str, members: Mapping[str, Any]) -> dict[str, Any]:
    """The record for `to_messages`, with its images, sounds and videos.

    Args:
        key: common part of the members' names, such as `00012/000120003`.
        members: by extension; sources and texts as bytes, JSON as bytes or parsed.

    Returns:
        the conversation of the JSON with bytes in `images`, `audios` and `videos`, or `{"caption",
        "images", ...}` without one.

    Raises:
        WingsError: no conversation or caption, or sources that do not match their names.
    """
    record = _json(members["json"]) if members.get("json") is not None else {}
    if not isinstance(record, dict):
        raise WingsError(f"{key}.json holds {type(record).__name__}, not a mapping")
    if not {"conversations", "messages", "texts"} & set(record):
        record = {"caption": _caption(key, members, record)}
    for kind in SOURCES:
        _fill(record, kind, key, members)
    return record


def _fill(record: dict[str, Any], kind: str, key: str, members: Mapping[str, Any]) -> None:
    """Puts the bytes of the sources of a kind in place of their names."""
    sources = {n: members[n] for n in sorted(members, key=_natural) if kind_of(n) == kind}
    if kind != "image" and not sources:
        # Sounds and videos may be files beside the shard.
        return
    names = record.pop(kind, None)
    more = record.pop(f"{kind}s", None)
    names = more if names is None else names
    parts = [part for part in _parts(record) if isinstance(part.get(kind), str)]
    for part in parts:
        name = _named(part[kind], key, sources)
        if name is None:
            raise WingsError(f"the shard has no {kind} {part[kind]!r} for {key}.json")
        part[kind] = sources[name]
    if not parts and sources:
        record[f"{kind}s"] = _ordered(names, key, kind, sources)
    elif names:
        raise WingsError(f"{key}.json names images, but the shard has none under its key")


def _ordered(names: Any, key: str, kind: str, sources: dict[str, Any]) -> list[Any]:
    """The sources in the order of the JSON's names, or of their own names without any."""
    if names is None or names == "" or names == []:
        return list(sources.values())
    names = names if isinstance(names, list) else [names]
    matches = [_named(str(name), key, sources) for name in names]
    ordered = [sources[name] for name in matches if name is not None]
    if len(ordered) == len(matches):
        return ordered
    # The names may predate packing; equally many sources keep their own order.
    if not any(matches) and len(names) == len(sources):
        return list(sources.values())
    raise WingsError(
        f"{key}.json names {len(names)} {NOUNS[kind]} ({str(names[matches.index(None)])[:60]!r}),"
        f" and the shard has {len(sources)} under its key ({', '.join(sources)})"
    )


def _named(name: str, key: str, sources: dict[str, Any]) -> str | None:
    last = PurePosixPath(name).name
    stem = PurePosixPath(key).name
    return next(
        (extension for extension in sources if last in (f"{stem}.{extension}", extension)), None
    )


def _last(extension: str) -> str:
    return extension.rpartition(".")[2]


def _parts(record: dict[str, Any]) -> list[dict[str, Any]]:
    turns = record.get("messages")
    turns = [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    contents = [turn["content"] for turn in turns if isinstance(turn.get("content"), list)]
    return [part for content in contents for part in content if isinstance(part, dict)]


def _caption(key: str, members: Mapping[str, Any], record: dict[str, Any]) -> str:
    given = [members.get("txt"), members.get("caption"), record.get("caption"), record.get("text")]
    text = next((one for one in given if one is not None), None)
    if text is None:
        raise WingsError(f"{key} has neither a conversation in .json nor a caption in .txt")
    try:
        return (text.decode() if isinstance(text, bytes) else str(text)).strip()
    except UnicodeDecodeError:
        raise WingsError(f"the caption of {key} is not UTF-8") from None


def _json(value: Any) -> Any:
    if not isinstance(value, bytes | str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise WingsError(f"not JSON ({error})") from None


def _natural(name: str) -> list[Any]:
    """`2.jpg` before `10.jpg`."""
    return [(0, int(run), "") if run.isdigit() else (1, 0, run) for run in re.split(r"(\d+)", name)]
