"""Items: a conversation whose last turn is to be answered, and the reference answer."""

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wings.errors import WingsError, nearest

from .scoring.checks import validate_checks

NAMES = ("circle", "cluster")
FIELDS = ("messages", "kind", "scoring", "choices", "references", "checks", *NAMES)
# How an answer is scored (`scoring/score.py`); the first is the default.
SCORINGS = ("exact", "mention", "short", "vqa", "choice", "likelihood", "checks")


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        kind: the group that it is counted in.
        messages: chat messages up to and including the user's last turn.
        answer: the reference; for "choice" and "likelihood" one of the choices.
        scoring: one of `SCORINGS`.
        choices: texts to choose from.
        references: other right answers ("short"), or the annotators' answers ("vqa").
        checks: verified by a program ("checks"), see `scoring/checks.py`.
        circle: names a question that several items ask, each with its choices rotated by one (see
            `compare/comparison.py`); "" for a question that is asked once.
        cluster: names what the item shares with others, such as a drawing; intervals resample
            such items together (see `compare/clusters.py`); "" for the item's image files.
    """

    kind: str
    messages: tuple[dict, ...]
    answer: str
    scoring: str = "exact"
    choices: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    checks: tuple[dict, ...] = ()
    circle: str = ""
    cluster: str = ""

    def record(self) -> dict:
        """The record that `read_items` reads as this item."""
        answer = {"role": "assistant", "content": self.answer}
        record: dict[str, Any] = {"kind": self.kind, "messages": [*self.messages, answer]}
        if self.scoring != SCORINGS[0]:
            record["scoring"] = self.scoring
        for name in ("choices", "references", "checks"):
            if values := self.__dict__[name]:
                record[name] = list(values)
        return record | {name: value for name in NAMES if (value := self.__dict__[name])}


def text_of(content: str | Sequence[dict[str, Any]]) -> str:
    """The text of a message's content, without its pictures."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def pictures_of(item: Item) -> list[Any]:
    """The pictures of a conversation, in reading order."""
    contents = (m["content"] for m in item.messages if not isinstance(m["content"], str))
    return [part["image"] for content in contents for part in content if part["type"] == "image"]


def without_pictures(item: Item) -> Item:
    """The item without pictures; each content becomes one string."""
    messages = (m | {"content": text_of(m["content"])} for m in item.messages)
    return replace(item, messages=tuple(messages))


def question_alone(item: Item) -> Item:
    """The item's last question without pictures and earlier exchanges; system messages stay."""
    blind = without_pictures(item).messages
    last = max((n for n, m in enumerate(blind) if m["role"] == "user"), default=0)
    system = (message for message in blind[:last] if message["role"] == "system")
    return replace(item, messages=(*system, *blind[last:]))


def read_items(path: str | Path) -> list[Item]:
    """Reads items from JSON Lines of chat messages, in the format of training.

    The last message of a record must be the assistant's: it is the reference, which the model is
    not shown. `kind` is optional ("all" by default), as are `scoring`, `choices`, `references`,
    `checks`, `circle` and `cluster`. Paths of pictures are relative to the file.

    Raises:
        WingsError: a missing file, an invalid line (named), or no record at all.
    """
    path = Path(path)
    if not path.is_file():
        raise WingsError(f"There is no file {path}; pass JSON Lines of chat messages.")
    # Not splitlines, which also splits at separators that occur inside texts.
    lines = path.read_text(encoding="utf-8").split("\n")
    numbered = [(n, line) for n, line in enumerate(lines, 1) if line.strip()]
    items = [_item(line, f"{path}:{n}", path.parent) for n, line in numbered]
    if not items:
        raise WingsError(f"{path} holds no record; add at least one conversation.")
    return items


def write_items(path: str | Path, items: Iterable[Item]) -> None:
    """Writes JSON Lines that `read_items` reads; the same items give the same bytes."""
    lines = [json.dumps(item.record(), ensure_ascii=False) + "\n" for item in items]
    Path(path).write_text("".join(lines), encoding="utf-8", errors="backslashreplace")


def _item(line: str, where: str, folder: Path) -> Item:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise WingsError(f"{where} is not JSON ({error.msg}); write one record a line.") from error
    messages = record.get("messages") if isinstance(record, dict) else None
    if isinstance(record, dict):
        _validate_fields(record, where)
    if not isinstance(messages, list) or not messages:
        named = ", ".join(map(repr, record)) if isinstance(record, dict) else "no names at all"
        raise WingsError(
            f"{where} has no list of 'messages', but {named or 'nothing'}; rename the field."
        )
    for n, message in enumerate(messages):
        if not _is_message(message):
            raise WingsError(
                f"{where}: message {n} is {message!r:.60}; give it a role, and content that is a "
                "text or a list of parts with a text or an image each."
            )
    if messages[-1]["role"] != "assistant" or len(messages) < 2:
        raise WingsError(
            f"{where} has no answer to score; end its messages with an assistant's turn."
        )
    answer = text_of(messages[-1]["content"])
    prompt = tuple(_resolve(message, folder) for message in messages[:-1])
    extras = _extras(record, answer, where)
    kind = record.get("kind", "all")
    if not isinstance(kind, str):
        raise WingsError(f"{where}: kind is {kind!r}; give the name of its group as a text.")
    return Item(kind, prompt, answer, **extras)


def _validate_fields(record: dict, where: str) -> None:
    """Rejects misspelt fields, which would be ignored and change the scoring."""
    for name in record:
        close = difflib.get_close_matches(name, FIELDS, n=1, cutoff=0.8)
        if close and name not in FIELDS:
            raise WingsError(f"{where} has a field {name!r}; rename it to {close[0]!r}.")


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
            f"{', '.join(SCORINGS)}."
        )
    choices, references = (_texts(record, name, where) for name in ("choices", "references"))
    if scoring in ("choice", "likelihood") and not choices:
        raise WingsError(
            f"{where} is scored by {scoring} and has no choices; list them in 'choices'."
        )
    if choices and answer not in choices:
        raise WingsError(f"{where}: the answer {answer!r} is none of its choices; add it to them.")
    if scoring == "vqa" and not references:
        raise WingsError(f"{where} has no annotators' answers; list them in 'references'.")
    checks = tuple(validate_checks(record.get("checks", []), where))
    if scoring == "checks" and not checks:
        raise WingsError(f"{where} is scored by checks and has none; list them in 'checks'.")
    names = {name: record.get(name, "") for name in NAMES}
    for name, value in names.items():
        if not isinstance(value, str):
            noun = "question" if name == "circle" else "cluster"
            raise WingsError(
                f"{where}: {name} is {value!r}; give the name of its {noun} as a text."
            )
    extras = {"scoring": scoring, "choices": choices, "references": references}
    return extras | {"checks": checks} | names


def _texts(record: dict, name: str, where: str) -> tuple[str, ...]:
    values = record.get(name, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise WingsError(f"{where}: {name} is {values!r}; give a list of texts.")
    return tuple(values)


def _resolve(message: dict, folder: Path) -> dict:
    if isinstance(message["content"], str):
        return message
    parts: Sequence[dict] = [
        part | {"image": _path(part["image"], folder)} if part["type"] == "image" else part
        for part in message["content"]
    ]
    return message | {"content": list(parts)}


def _path(image: str, folder: Path) -> str:
    # A picture may be embedded in the record as a data URI.
    return image if image.startswith("data:") else str(folder / image)
