"""Converts a record of any supported format to messages with images, sounds and videos."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from wings.errors import WingsError, nearest
from wings.processing.web_file import is_address

Message = dict[str, Any]

# Kinds of parts that are no text, with the placeholder of each in a text.
PLACEHOLDERS = {"image": "<image>", "audio": "<audio>", "video": "<video>"}
_NOUNS = {"image": ("an image", "images"), "audio": ("a sound", "sounds")}
_NOUNS |= {"video": ("a video", "videos")}
# Options that a part with a video may have.
_OPTIONS = ("fps", "max_frames")
_SPLITS = re.compile("|".join(PLACEHOLDERS.values()))


class TurnsError(WingsError):
    """The roles of a conversation do not alternate, or there is no answer."""


# What a turn may say outside its content, and what to do about it.
_LOST = {
    "tool_calls": "write the call into its content",
    "function_call": "write the call into its content",
    "thinking": "name it reasoning_content",
    "reasoning": "name it reasoning_content",
}
# An exchange of the Cauldron.
_PAIR = ("user", "assistant")
_SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}


def to_messages(record: dict[str, Any], images: str | Path) -> list[Message]:
    """One record as chat messages.

    Args:
        record: LLaVA's `{"conversations": [{"from", "value"}], "image": path or list}`;
            `{"messages": [{"role", "content"}], "images": [...]}`, where content is a text or a
            list of `{"type": "text" | "image" | "audio" | "video"}` parts, with `reasoning_content`
            or without; `{"texts": [{"user", "assistant"}], "images"}` as in the Cauldron; or an
            image with a `caption` (or `text`), which answers a turn that is only the image. `audio`
            (or `audios`) has sounds as `image` has images, also beside them; `video` has one video
            and `videos` a list of them. A list in place of a video has its frames.
        images: folder that paths of images, sounds and videos are relative to.

    Returns:
        `[{"role": "user" | "assistant" | "system", "content": [part, ...]}]`; a part is `{"type":
        "text", "text"}`, `{"type": "image", "image": source}` or `{"type": "audio", "audio":
        source}`, `"video"` likewise with its `fps` and `max_frames`; a source is a Path, bytes, or
        a URL or data URI, for a sound also samples with their rate, for a video also a list of
        images. In a record with images, `<image>` in a text becomes a part, `<audio>` in one with
        sounds and `<video>` in one with videos. The line break next to it is removed, because chat
        templates write none, and training and inference should have the same tokens.

    Raises:
        WingsError: an empty or malformed conversation, or different numbers of images (sounds,
            videos) and placeholders.
    """
    sources = {kind: _sources(_first(record, kind, f"{kind}s")) for kind in PLACEHOLDERS}
    if isinstance(record.get("video"), list):
        sources["video"] = [record["video"]] if record["video"] else []
    counts = {kind: len(found) for kind, found in sources.items()}
    caption = record["caption"] if record.get("caption") is not None else record.get("text")
    if record.get("conversations") is not None:
        turns = [_llava_turn(turn) for turn in _list(record["conversations"], "conversations")]
    elif record.get("messages") is not None:
        turns = [_chat_turn(turn) for turn in _list(record["messages"], "messages")]
    elif record.get("texts") is not None:
        turns = _exchanges(_list(record["texts"], "texts"), counts)
    elif isinstance(caption, str) and any(counts.values()):
        turns = [("user", _open_parts(counts)), ("assistant", [_text(caption)])]
    else:
        raise WingsError(
            "no 'conversations', 'messages', 'texts', or image, audio or video with 'caption' among"
            f" its keys ({', '.join(map(str, record))})"
        )
    _validate_turns(turns)
    messages = _place_items(turns, sources, Path(images).expanduser())
    if record.get("conversations") is None and record.get("messages") is not None:
        _add_thoughts(record, messages)
    return messages


def images_of(messages: Iterable[Mapping[str, Any]]) -> list[Any]:
    """The sources of all images of a conversation, in reading order."""
    contents = (message["content"] for message in messages)
    parts = [part for content in contents if not isinstance(content, str) for part in content]
    return [part["image"] for part in parts if part["type"] == "image"]


def items_of(messages: Iterable[Mapping[str, Any]]) -> list[tuple[str, Any]]:
    """The sense and the source of all items of a conversation, in reading order.

    A video is seen, so its sense is that of images.
    """
    contents = (message["content"] for message in messages)
    parts = [part for content in contents if not isinstance(content, str) for part in content]
    kinds = [part["type"] for part in parts]
    found = zip(kinds, parts, strict=True)
    return [(sense_of(kind), part[kind]) for kind, part in found if kind != "text"]


def sense_of(kind: str) -> str:
    """The sense of a part that is no text: "image" for a video, which is seen."""
    return "image" if kind == "video" else kind


def text_of(content: str | Iterable[Mapping[str, Any]]) -> str:
    """The text of a message's content, without its images, sounds and videos."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def _add_thoughts(record: dict[str, Any], messages: list[Message]) -> None:
    """Adds what a turn says outside its content, and refuses what would be lost."""
    if record.get("tools"):
        raise WingsError("it has 'tools', which are not trained; write them into a system message")
    for turn, message in zip(record["messages"], messages, strict=True):
        for key, remedy in _LOST.items():
            if turn.get(key):
                raise WingsError(f"a turn has {key!r}, which is not trained; {remedy}")
        thoughts = turn.get("reasoning_content")
        if thoughts:
            if not isinstance(thoughts, str):
                raise WingsError(f"reasoning_content is {str(thoughts)[:40]!r}, not a text")
            message["reasoning_content"] = thoughts


def _llava_turn(turn: dict[str, Any]) -> tuple[str, list[Message]]:
    if not isinstance(turn, dict) or "from" not in turn or not isinstance(turn.get("value"), str):
        raise WingsError(
            f"a turn of 'conversations' needs 'from' and a text 'value', got {str(turn)[:60]}"
        )
    return _role(turn["from"]), [_text(turn["value"])]


def _exchanges(texts: list[Any], counts: dict[str, int]) -> list[tuple[str, list[Message]]]:
    """Turns of questions and answers; items come first unless a text places them."""
    turns = []
    for pair in texts:
        texts_of = [pair.get(role) for role in _PAIR] if isinstance(pair, dict) else []
        if not texts_of or not all(isinstance(one, str) for one in texts_of):
            raise WingsError(
                f"an entry of 'texts' needs a text for 'user' and 'assistant', got {pair!r:.60}"
            )
        turns += [(role, [_text(pair[role])]) for role in _PAIR]
    said = "".join(part["text"] for _, parts in turns for part in parts)
    left = {kind: 0 if PLACEHOLDERS[kind] in said else count for kind, count in counts.items()}
    if turns:
        turns[0] = ("user", [*_open_parts(left), *turns[0][1]])
    return turns


def _text(text: str) -> Message:
    return {"type": "text", "text": text}


def _open_parts(counts: dict[str, int]) -> list[Message]:
    return [{"type": kind, kind: None} for kind, count in counts.items() for _ in range(count)]


def _chat_turn(turn: dict[str, Any]) -> tuple[str, list[Message]]:
    if not isinstance(turn, dict) or "role" not in turn or turn.get("content") is None:
        raise WingsError(f"a turn of 'messages' needs 'role' and 'content', got {str(turn)[:60]}")
    content = turn["content"]
    if isinstance(content, str):
        return _role(turn["role"]), [_text(content)]
    parts = []
    for part in _list(content, "content"):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            parts.append(_text(part["text"]))
        elif kind in PLACEHOLDERS:
            # Arrow fills keys of other parts with None.
            given = [
                part[key] for key in (kind, "path", "bytes", "url") if part.get(key) is not None
            ]
            options = [name for name in _OPTIONS if kind == "video" and part.get(name) is not None]
            own = {name: part[name] for name in options}
            parts.append({"type": kind, kind: given[0] if given else None, **own})
        else:
            raise WingsError(
                f"a part of 'content' is a text, an image, audio or a video, got {str(part)[:60]}"
            )
    return _role(turn["role"]), parts


def _place_items(
    turns: list[tuple[str, list[Message]]], sources: dict[str, list[Any]], folder: Path
) -> list[Message]:
    parts_of = [part for _, parts in turns for part in parts]
    for kind, given in sources.items():
        placeholder = PLACEHOLDERS[kind]
        places = sum(part.get(kind, 0) is None for part in parts_of)
        # Without a sound, `<audio>` in a text is only letters: web pages are full of it.
        if given or kind == "image":
            places += sum(part.get("text", "").count(placeholder) for part in parts_of)
        if places != len(given):
            raise WingsError(f"{places} {kind} placeholders for {len(given)} {_NOUNS[kind][1]}")
    waiting = {kind: iter(given) for kind, given in sources.items()}
    placed = {PLACEHOLDERS[kind] for kind, given in sources.items() if given}
    messages = []
    for role, parts in turns:
        content = []
        for part in parts:
            kind = part["type"]
            if kind == "text":
                content += _split(part["text"], placed, waiting, folder)
            else:
                source = next(waiting[kind]) if part[kind] is None else part[kind]
                content.append({**part, kind: _locate(source, folder, kind)})
        messages.append({"role": role, "content": content})
    return messages


def _split(
    text: str, placed: set[str], waiting: dict[str, Iterator[Any]], folder: Path
) -> list[Message]:
    """A text as parts, cut at the placeholders that are `placed`."""
    found = [match for match in _SPLITS.finditer(text) if match.group() in placed]
    if not found:
        return [_text(text)]
    parts: list[Message] = []
    starts = [0, *(match.end() for match in found)]
    ends = [*(match.start() for match in found), len(text)]
    for n, (start, end) in enumerate(zip(starts, ends, strict=True)):
        piece = text[start:end]
        piece = piece.removeprefix("\n") if n > 0 else piece
        piece = piece.removesuffix("\n") if n < len(found) else piece
        if piece:
            parts.append(_text(piece))
        if n < len(found):
            kind = found[n].group().strip("<>")
            parts.append({"type": kind, kind: _locate(next(waiting[kind]), folder, kind)})
    return parts


def _first(record: dict[str, Any], *keys: str) -> Any:
    """The value of the first of the keys that has one."""
    return next((record[key] for key in keys if record.get(key) is not None), None)


def _sources(value: Any) -> list[Any]:
    """A path, bytes, `{"bytes", "path"}` as Hugging Face writes it, or a list of those."""
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list) else [value]


def _locate(source: Any, folder: Path, kind: str) -> Any:
    if kind == "audio" and not isinstance(source, str | bytes | int | float | list):
        # Samples, or a decoder of an Audio column; a mapping may hold bytes or a path.
        held = source.get("array") if isinstance(source, Mapping) else source
        if held is not None:
            return source
    if kind == "video" and isinstance(source, list):
        return [_locate(frame, folder, "image") for frame in source]
    if isinstance(source, Mapping):
        source = source["bytes"] if source.get("bytes") is not None else source.get("path")
    if isinstance(source, bytes):
        return source
    if not isinstance(source, str) or not source:
        raise WingsError(f"{_NOUNS[kind][0]} is {str(source)[:40]!r}, not a path or bytes")
    return source if is_address(source) else folder / source


def _validate_turns(turns: list[tuple[str, list[Message]]]) -> None:
    roles = [role for role, _ in turns]
    if not roles:
        raise TurnsError("the conversation is empty")
    talk = roles[1:] if roles[0] == "system" else roles
    if "assistant" not in talk:
        raise TurnsError("the conversation has no answer")
    if any(role != ("user", "assistant")[n % 2] for n, role in enumerate(talk)):
        raise TurnsError(
            f"user and assistant must alternate, user first, but the turns are {', '.join(roles)}"
        )
    for role, parts in turns:
        if role == "assistant" and not any(p["type"] != "text" or p["text"].strip() for p in parts):
            raise WingsError("an answer is empty")


def _role(name: Any) -> str:
    if name not in _SPEAKERS:
        close = nearest(str(name), _SPEAKERS)
        raise WingsError(f"no speaker is named {name!r}{close}; known: {', '.join(_SPEAKERS)}")
    return _SPEAKERS[name]


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise WingsError(f"'{name}' is {type(value).__name__}, not a list")
    return value
