"""What is asked: one conversation whose last turn is to be answered, and the right answer."""

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wings.errors import WingsError, nearest

from .scoring.checks import validate_checks

FIELDS = ("messages", "kind", "scoring", "choices", "references", "checks", "circle")
# How a record's answer is marked (`mark.py`): the first is meant where a record says nothing.
SCORINGS = ("exact", "mention", "short", "vqa", "choice", "likelihood", "checks")


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        kind: the group it is counted in.
        messages: chat messages up to and including the user's last turn.
        answer: the reference; for "choice" and "likelihood" one of the choices.
        scoring: how an answer is marked, one of `SCORINGS`.
        choices: texts to choose from.
        references: other right answers ("short"), or what each annotator said ("vqa").
        checks: what a program verifies ("checks"), see `checks.py`.
        circle: the name of a question that several items ask, each with its choices moved on by
            one (`comparison.py` says how they count); "" for a question that is asked once.
    """

    kind: str
    messages: tuple[dict, ...]
    answer: str
    scoring: str = "exact"
    choices: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    checks: tuple[dict, ...] = ()
    circle: str = ""

    def record(self) -> dict:
        """The line of a file that `read_items` reads as this item."""
        answer = {"role": "assistant", "content": self.answer}
        record: dict[str, Any] = {"kind": self.kind, "messages": [*self.messages, answer]}
        if self.scoring != SCORINGS[0]:
            record["scoring"] = self.scoring
        for name in ("choices", "references", "checks"):
            if values := self.__dict__[name]:
                record[name] = list(values)
        if self.circle:
            record["circle"] = self.circle
        return record


def text_of(content: str | Sequence[dict[str, Any]]) -> str:
    """The text of a message's content, its pictures left out."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def pictures_of(item: Item) -> list[Any]:
    """The pictures of a conversation, in reading order."""
    contents = (m["content"] for m in item.messages if not isinstance(m["content"], str))
    return [part["image"] for content in contents for part in content if part["type"] == "image"]


def without_pictures(item: Item) -> Item:
    """The item with every content one string."""
    messages = (m | {"content": text_of(m["content"])} for m in item.messages)
    return replace(item, messages=tuple(messages))


def read_items(path: str | Path) -> list[Item]:
    """Items from JSON Lines of chat messages, the same file that training reads.

    The last message of a record must be the assistant's: it is the reference, and not shown to the
    model. `kind` is optional ("all" without it), as are `scoring`, `choices`, `references`,
    `checks` and `circle`. Paths of pictures are relative to the file.

    Raises:
        WingsError: no such file, a line that is not such a record (which), or no record at all.
    """
    path = Path(path)
    if not path.is_file():
        raise WingsError(f"there is no file {path}; give JSON Lines of chat messages")
    # Not splitlines, which also cuts at separators that stand within a text.
    lines = path.read_text(encoding="utf-8").split("\n")
    numbered = [(n, line) for n, line in enumerate(lines, 1) if line.strip()]
    items = [_item(line, f"{path}:{n}", path.parent) for n, line in numbered]
    if not items:
        raise WingsError(f"{path} holds no record; give at least one conversation to answer")
    return items


def write_items(path: str | Path, items: Iterable[Item]) -> None:
    """JSON Lines that `read_items` reads; the same items give the same bytes."""
    lines = [json.dumps(item.record(), ensure_ascii=False) + "\n" for item in items]
    Path(path).write_text("".join(lines), encoding="utf-8")


def _item(line: str, where: str, folder: Path) -> Item:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise WingsError(f"{where} is not JSON ({error.msg}); write one record a line") from error
    messages = record.get("messages") if isinstance(record, dict) else None
    if isinstance(record, dict):
        _validate_fields(record, where)
    if not isinstance(messages, list) or not messages:
        named = ", ".join(map(repr, record)) if isinstance(record, dict) else "no names at all"
        raise WingsError(f"{where} has no list of 'messages', but {named or 'nothing'}; rename it")
    for n, message in enumerate(messages):
        if not _is_message(message):
            raise WingsError(
                f"{where}: message {n} is {message!r:.60}; give it a role and a content of text, "
                "or of parts with a text or an image each"
            )
    if messages[-1]["role"] != "assistant" or len(messages) < 2:
        raise WingsError(
            f"{where} has no answer to score; end its messages with an assistant's turn"
        )
    answer = text_of(messages[-1]["content"])
    asked = tuple(_located(message, folder) for message in messages[:-1])
    extras = _extras(record, answer, where)
    kind = record.get("kind", "all")
    if not isinstance(kind, str):
        raise WingsError(f"{where}: kind is {kind!r}; give the name of its group as a text")
    return Item(kind, asked, answer, **extras)


def _validate_fields(record: dict, where: str) -> None:
    """A name that is nearly one of ours would be passed over, and the answer marked otherwise."""
    for name in record:
        close = difflib.get_close_matches(name, FIELDS, n=1, cutoff=0.8)
        if close and name not in FIELDS:
            raise WingsError(f"{where} has a field {name!r}; rename it to {close[0]!r}")


def _is_message(message: Any) -> bool:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        return False
    content = message.get("content")
    return isinstance(content, str) or (
        isinstance(content, list)
        and all(
            isinstance(part, dict)
            and part.get("type") in ("text", "image")
            and isinstance(part.get(part["type"]), str)
            for part in content
        )
    )


def _extras(record: dict, answer: str, where: str) -> dict[str, Any]:
    scoring = record.get("scoring", SCORINGS[0])
    if scoring not in SCORINGS:
        raise WingsError(
            f"{where}: scoring is {scoring!r}{nearest(str(scoring), SCORINGS)}; it must be one of "
            f"{', '.join(SCORINGS)}"
        )
    choices, references = (_texts(record, name, where) for name in ("choices", "references"))
    if scoring in ("choice", "likelihood") and not choices:
        raise WingsError(
            f"{where} is scored by {scoring} and has no choices; list them in 'choices'"
        )
    if choices and answer not in choices:
        raise WingsError(f"{where}: the answer {answer!r} is none of its choices; add it to them")
    if scoring == "vqa" and not references:
        raise WingsError(f"{where} has no annotators' answers; list them in 'references'")
    checks = tuple(validate_checks(record.get("checks", []), where))
    if scoring == "checks" and not checks:
        raise WingsError(f"{where} is scored by checks and has none; list them in 'checks'")
    circle = record.get("circle", "")
    if not isinstance(circle, str):
        raise WingsError(f"{where}: circle is {circle!r}; give the name of its question as a text")
    extras = {"scoring": scoring, "choices": choices, "references": references}
    return extras | {"checks": checks, "circle": circle}


def _texts(record: dict, name: str, where: str) -> tuple[str, ...]:
    values = record.get(name, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise WingsError(f"{where}: {name} is {values!r}; give a list of texts")
    return tuple(values)


def _located(message: dict, folder: Path) -> dict:
    if isinstance(message["content"], str):
        return message
    parts: Sequence[dict] = [
        part | {"image": _found(part["image"], folder)} if part["type"] == "image" else part
        for part in message["content"]
    ]
    return message | {"content": list(parts)}


def _found(image: str, folder: Path) -> str:
    # A picture within the record, as some formats have them, lies in no folder.
    return image if image.startswith("data:") else str(folder / image)
