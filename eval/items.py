"""Items: a conversation whose last turn is to be answered, and the reference answer."""

import base64
import difflib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wings.errors import WingsError, nearest
from wings.records.formats import Message, images_of, text_of, to_messages
from wings.records.open_records import open_records
from wings.records.record_source import RecordSource
from wings.records.records import naming_record

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
            such items together (see `compare/clusters.py`); "" for the files of the item's
            pictures and sounds.
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


def pictures_of(item: Item) -> list[Any]:
    """The pictures of a conversation, in reading order."""
    return images_of(item.messages)


def without_sources(item: Item) -> Item:
    """The item without pictures, sounds and videos; each content becomes one string."""
    messages = (m | {"content": text_of(m["content"])} for m in item.messages)
    return replace(item, messages=tuple(messages))


def question_alone(item: Item) -> Item:
    """The item's last question without its sources and earlier exchanges; system messages stay."""
    blind = without_sources(item).messages
    last = max((n for n, m in enumerate(blind) if m["role"] == "user"), default=0)
    system = (message for message in blind[:last] if message["role"] == "system")
    return replace(item, messages=(*system, *blind[last:]))


def read_items(path: str | Path, images: str | Path | None = None) -> list[Item]:
    """Reads items from records in any form that training reads.

    The last message of a record must be the assistant's: it is the reference, which the model is
    not shown. `kind` is optional ("all" by default), as are `scoring`, `choices`, `references`,
    `checks`, `circle` and `cluster`.

    Args:
        path: a `.json`, `.jsonl`, `.parquet` or `.tar` file, or a folder or pattern of them.
        images: folder that paths of pictures and sounds are relative to; None for the folder of
            `path`.

    Raises:
        WingsError: a missing file, an invalid record (named), or no record at all.
    """
    return [item for _, item in read_named_items(path, images)]


def read_named_items(
    path: str | Path, images: str | Path | None = None
) -> Iterator[tuple[str, Item]]:
    """Yields the items of `read_items`, each with the name of its record."""
    records = open_records(RecordSource(str(path)))
    folder = records.folder if images is None else Path(images)
    for number in range(len(records)):
        where = records.place(number)
        with naming_record(records, number):
            record = records[number]
            messages = to_messages(record, folder)
        yield where, _item(record, messages, where)


def write_items(path: str | Path, items: Iterable[Item]) -> None:
    """Writes JSON Lines that `read_items` reads; the same items give the same bytes."""
    lines = [json.dumps(item.record(), ensure_ascii=False) + "\n" for item in items]
    Path(path).write_text("".join(lines), encoding="utf-8", errors="backslashreplace")


def _item(record: dict[str, Any], messages: Sequence[Message], where: str) -> Item:
    _validate_fields(record, where)
    if messages[-1]["role"] != "assistant":
        raise WingsError(
            f"{where} has no answer to score; end its conversation with an assistant's turn."
        )
    answer = text_of(messages[-1]["content"])
    prompt = tuple(_turn(message) for message in messages[:-1])
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


def _turn(message: Message) -> dict[str, Any]:
    """The message with its text as one string, or with the addresses of its sources."""
    parts = message["content"]
    if all(part["type"] == "text" for part in parts):
        return message | {"content": text_of(parts)}
    return message | {
        "content": [
            part if (kind := part["type"]) == "text" else part | {kind: _address(part[kind])}
            for part in parts
        ]
    }


def _address(source: Any) -> Any:
    """The path, URL or data URI of a source, or of each frame; samples of a sound stay."""
    if isinstance(source, list):
        return [_address(frame) for frame in source]
    if isinstance(source, bytes):
        return f"data:application/octet-stream;base64,{base64.b64encode(source).decode()}"
    return str(source) if isinstance(source, Path) else source
