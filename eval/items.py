"""What is asked: one conversation whose last turn is to be answered, and the right answer."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wings.errors import WingsError

MATCHES = ("whole", "mention")


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        kind: the group it is counted in.
        messages: chat messages up to and including the user's last turn.
        answer: the reference.
        match: "whole": what is said must be the reference; "mention": must name it somewhere.
    """

    kind: str
    messages: tuple[dict, ...]
    answer: str
    match: str = "whole"


def read_items(path: str | Path) -> list[Item]:
    """Items from JSON Lines of chat messages, the same file that training reads.

    The last message of a record must be the assistant's: it is the reference, and not shown to the
    model. `kind` is optional ("all" without it), and so are `match` ("whole" without it) and
    `choices`: where they are listed, the reference must be one of them. Paths of pictures are
    relative to the file.

    Raises:
        WingsError: no such file, a line that is not such a record (which), or no record at all.
    """
    path = Path(path)
    if not path.is_file():
        raise WingsError(f"there is no file {path}; give JSON Lines of chat messages")
    lines = path.read_text(encoding="utf-8").splitlines()
    items = [_item(line, f"{path}:{n}", path.parent) for n, line in enumerate(lines, 1) if line]
    if not items:
        raise WingsError(f"{path} holds no record; give at least one conversation to answer")
    return items


def _item(line: str, where: str, folder: Path) -> Item:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise WingsError(f"{where} is not JSON ({error.msg}); write one record a line") from error
    messages = record.get("messages") if isinstance(record, dict) else None
    if not isinstance(messages, list) or not messages:
        named = ", ".join(map(repr, record)) if isinstance(record, dict) else "no names at all"
        raise WingsError(f"{where} has no list of 'messages', but {named or 'nothing'}; rename it")
    for message in messages:
        if not _is_message(message):
            raise WingsError(
                f"{where} has a message that is not {{'role': ..., 'content': a text or a list of "
                f"text and image parts}}: {str(message)[:80]}"
            )
    if messages[-1]["role"] != "assistant" or len(messages) < 2:
        raise WingsError(
            f"{where} has no answer to score; end its messages with an assistant's turn"
        )
    answer = messages[-1]["content"]
    if not isinstance(answer, str):
        answer = "".join(part["text"] for part in answer if part["type"] == "text")
    if "choices" in record and answer not in (record["choices"] or ()):
        raise WingsError(
            f"{where} has the answer {answer!r} and the choices {record['choices']!r}, so no choice"
            " is right; add it or remove 'choices'"
        )
    match = record.get("match", MATCHES[0])
    if match not in MATCHES:
        raise WingsError(f"{where} has the match {match!r}; say {' or '.join(map(repr, MATCHES))}")
    asked = tuple(_located(message, folder) for message in messages[:-1])
    return Item(record.get("kind", "all"), asked, answer, match)


def _is_message(message: Any) -> bool:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        return False
    content = message.get("content")
    if isinstance(content, str):
        return True
    return isinstance(content, list) and all(
        isinstance(part, dict)
        and (
            (part.get("type") == "text" and isinstance(part.get("text"), str))
            or (part.get("type") == "image" and isinstance(part.get("image"), str))
        )
        for part in content
    )


def _located(message: dict, folder: Path) -> dict:
    if isinstance(message["content"], str):
        return message
    parts: Sequence[dict] = [
        part | {"image": str(folder / part["image"])} if part["type"] == "image" else part
        for part in message["content"]
    ]
    return message | {"content": list(parts)}
