"""Converts the files of one key in a tar shard (`x.jpg`, `x.json`, `x.txt`) to a record."""

import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from wings.errors import WingsError

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")
TEXTS = ("json", "txt", "caption")


def is_used(extension: str) -> bool:
    """True if a member with this extension (`jpg`, `0.png`, `json`) is part of a record."""
    return extension.rpartition(".")[2] in (*IMAGES, *TEXTS)


def to_record(key: str, members: Mapping[str, Any]) -> dict[str, Any]:
    """The record for `to_messages`, with its images.

    Args:
        key: common part of the members' names, such as `00012/000120003`.
        members: by extension; images and texts as bytes, JSON as bytes or parsed.

    Returns:
        the conversation of the JSON with image bytes in `images`, or `{"caption", "images"}`
        without one.

    Raises:
        WingsError: no conversation or caption, or images that do not match their names.
    """
    images = {name: members[name] for name in sorted(members, key=_natural) if is_image(name)}
    record = _json(members["json"]) if members.get("json") is not None else {}
    if not isinstance(record, dict):
        raise WingsError(f"{key}.json holds {type(record).__name__}, not a mapping")
    if not {"conversations", "messages", "texts"} & set(record):
        record = {"caption": _caption(key, members, record)}
    names = record.pop("image", None)
    names = record.pop("images", None) if names is None else names
    parts = [part for part in _parts(record) if isinstance(part.get("image"), str)]
    for part in parts:
        name = _named(part["image"], key, images)
        if name is None:
            raise WingsError(f"the shard has no image {part['image']!r} for {key}.json")
        part["image"] = images[name]
    if not parts and images:
        record["images"] = _ordered(names, key, images)
    elif names:
        raise WingsError(f"{key}.json names images, but the shard has none under its key")
    return record


def _ordered(names: Any, key: str, images: dict[str, Any]) -> list[Any]:
    """The images in the order of the JSON's names, or of their own names without any."""
    if names is None or names == "" or names == []:
        return list(images.values())
    names = names if isinstance(names, list) else [names]
    matches = [_named(str(name), key, images) for name in names]
    ordered = [images[name] for name in matches if name is not None]
    if len(ordered) == len(matches):
        return ordered
    # The names may predate packing; equally many images keep their own order.
    if not any(matches) and len(names) == len(images):
        return list(images.values())
    raise WingsError(
        f"{key}.json names {len(names)} images ({str(names[matches.index(None)])[:60]!r}), and the"
        f" shard has {len(images)} under its key ({', '.join(images)})"
    )


def _named(name: str, key: str, images: dict[str, Any]) -> str | None:
    last = PurePosixPath(name).name
    stem = PurePosixPath(key).name
    return next(
        (extension for extension in images if last in (f"{stem}.{extension}", extension)), None
    )


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


def is_image(extension: str) -> bool:
    """True for the extension of an image (`jpg`, `0.png`)."""
    return extension.rpartition(".")[2] in IMAGES


def _natural(name: str) -> list[Any]:
    """`2.jpg` before `10.jpg`."""
    return [(0, int(run), "") if run.isdigit() else (1, 0, run) for run in re.split(r"(\d+)", name)]
