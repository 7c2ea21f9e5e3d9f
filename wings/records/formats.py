"""Converts a record of any supported format to chat messages with images."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from wings.errors import WingsError, nearest
from wings.processing.web_file import is_address

Message = dict[str, Any]

PLACEHOLDER = "<image>"


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
            list of `{"type": "text" | "image"}` parts, with `reasoning_content` or without;
            `{"texts": [{"user", "assistant"}], "images"}` as in the Cauldron; or an image with a
            `caption` (or `text`), which answers a turn that is only the image.
        images: folder that image paths are relative to.

    Returns:
        `[{"role": "user" | "assistant" | "system", "content": [part, ...]}]`; a part is `{"type":
        "text", "text"}` or `{"type": "image", "image": source}`; a source is a Path, bytes, or
        a URL or data URI. In a record with images, `<image>` in a text becomes a part. The line
        break next to it is removed, because chat templates write none, and training and inference
        should have the same tokens.

    Raises:
        WingsError: an empty or malformed conversation, or different numbers of images and
            placeholders.
    """
    given = record["image"] if record.get("image") is not None else record.get("images")
    sources = _sources(given)
    caption = record["caption"] if record.get("caption") is not None else record.get("text")
    if record.get("conversations") is not None:
        turns = [_llava_turn(turn) for turn in _list(record["conversations"], "conversations")]
    elif record.get("messages") is not None:
        turns = [_chat_turn(turn) for turn in _list(record["messages"], "messages")]
    elif record.get("texts") is not None:
        turns = _exchanges(_list(record["texts"], "texts"), len(sources))
    elif isinstance(caption, str) and sources:
        turns = [("user", _open_parts(len(sources))), ("assistant", [_text(caption)])]
    else:
        raise WingsError(
            "no 'conversations', 'messages', 'texts' or image with 'caption' among its keys"
            f" ({', '.join(map(str, record))})"
        )
    _validate_turns(turns)
    messages = _place_images(turns, sources, Path(images).expanduser())
    if record.get("conversations") is None and record.get("messages") is not None:
        _add_thoughts(record, messages)
    return messages


def images_of(messages: Iterable[Mapping[str, Any]]) -> list[Any]:
    """The sources of all images of a conversation, in reading order."""
    contents = (message["content"] for message in messages)
    parts = [part for content in contents if not isinstance(content, str) for part in content]
    return [part["image"] for part in parts if part["type"] == "image"]


def text_of(content: str | Iterable[Mapping[str, Any]]) -> str:
    """The text of a message's content, without its images."""
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


def _exchanges(texts: list[Any], images: int) -> list[tuple[str, list[Message]]]:
    """Turns of questions and answers; images come first unless a text places them."""
    turns = []
    for pair in texts:
        texts_of = [pair.get(role) for role in _PAIR] if isinstance(pair, dict) else []
        if not texts_of or not all(isinstance(one, str) for one in texts_of):
            raise WingsError(
                f"an entry of 'texts' needs a text for 'user' and 'assistant', got {pair!r:.60}"
            )
        turns += [(role, [_text(pair[role])]) for role in _PAIR]
    written = any(PLACEHOLDER in part["text"] for _, parts in turns for part in parts)
    if turns and not written:
        turns[0] = ("user", [*_open_parts(images), *turns[0][1]])
    return turns


def _text(text: str) -> Message:
    return {"type": "text", "text": text}


def _open_parts(count: int) -> list[Message]:
    return [{"type": "image", "image": None} for _ in range(count)]


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
        elif kind == "image":
            # Arrow fills keys of other parts with None.
            given = [
                part[key] for key in ("image", "path", "bytes", "url") if part.get(key) is not None
            ]
            parts.append({"type": "image", "image": given[0] if given else None})
        else:
            raise WingsError(f"a part of 'content' is a text or an image, got {str(part)[:60]}")
    return _role(turn["role"]), parts


def _place_images(
    turns: list[tuple[str, list[Message]]], sources: list[Any], folder: Path
) -> list[Message]:
    open_parts = [
        p for _, parts in turns for p in parts if p["type"] == "image" and p["image"] is None
    ]
    written = sum(
        p["text"].count(PLACEHOLDER) for _, parts in turns for p in parts if p["type"] == "text"
    )
    if len(open_parts) + written != len(sources):
        raise WingsError(
            f"{len(open_parts) + written} image placeholders for {len(sources)} images"
        )
    waiting = iter(sources)
    messages = []
    for role, parts in turns:
        content = []
        for part in parts:
            if part["type"] == "text":
                content += _split(part["text"], waiting, folder)
            else:
                source = next(waiting) if part["image"] is None else part["image"]
                content.append({"type": "image", "image": _locate(source, folder)})
        messages.append({"role": role, "content": content})
    return messages


def _split(text: str, waiting: Iterator[Any], folder: Path) -> list[Message]:
    if PLACEHOLDER not in text:
        return [_text(text)]
    parts: list[Message] = []
    pieces = text.split(PLACEHOLDER)
    for n, piece in enumerate(pieces):
        piece = piece.removeprefix("\n") if n > 0 else piece
        piece = piece.removesuffix("\n") if n < len(pieces) - 1 else piece
        if piece:
            parts.append(_text(piece))
        if n < len(pieces) - 1:
            parts.append({"type": "image", "image": _locate(next(waiting), folder)})
    return parts


def _sources(value: Any) -> list[Any]:
    """A path, bytes, `{"bytes", "path"}` as Hugging Face writes it, or a list of those."""
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list) else [value]


def _locate(source: Any, folder: Path) -> Path | bytes | str:
    if isinstance(source, dict):
        source = source["bytes"] if source.get("bytes") is not None else source.get("path")
    if isinstance(source, bytes):
        return source
    if not isinstance(source, str) or not source:
        raise WingsError(f"an image is {str(source)[:40]!r}, not a path or bytes")
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
        if role == "assistant" and not any(
            p["type"] == "image" or p["text"].strip() for p in parts
        ):
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
