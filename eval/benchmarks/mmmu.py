"""MMMU: college questions with up to seven pictures, by choice or with a short answer."""

import ast
import re
from pathlib import Path
from typing import Any

import pyarrow.lib
import pyarrow.parquet

from wings.errors import WingsError
from wings.eval.items import Item
from wings.eval.mark import LETTERS, with_choices

from .fields import SHORT, data_uri, field

PLACE = re.compile(r"<image (\d)>")


def read_mmmu(table: str | Path) -> list[Item]:
    """Items scored by choice, or as short answers, counted by subfield.

    Open answers are compared once normalised; MMMU's own scoring also looks for numbers within a
    longer answer.

    Args:
        table: a parquet file: `question` and `options` with `<image 1>` where a picture stands,
            `options` and several open answers as a Python list in a text, `answer` (a letter for
            "multiple-choice"), `question_type`, `subfield`, `image_1` to `image_7` with `bytes`.

    Raises:
        WingsError: a missing file or field, an answer that is none of the options, a picture that
            is named and not there.
    """
    table = Path(table)
    if not table.is_file():
        raise WingsError(f"there is no file {table}; give a parquet file of MMMU")
    try:
        rows = pyarrow.parquet.read_table(table).to_pylist()
    except pyarrow.lib.ArrowException as error:
        raise WingsError(f"{table} is not parquet ({error}); give MMMU's own file") from error
    return [_item(row, f"{table}: row {n + 1}") for n, row in enumerate(rows)]


def _item(row: dict, where: str) -> Item:
    question, answer = field(row, "question", str, where), field(row, "answer", str, where)
    kind = field(row, "subfield", str, where)
    if field(row, "question_type", str, where) == "multiple-choice":
        options = _list(field(row, "options", str, where), f"{where}: options")
        place = LETTERS.find(answer)
        if len(answer) != 1 or not 0 <= place < len(options):
            raise WingsError(f"{where}: answer is {answer!r}, and there are {len(options)} options")
        messages = _turn(with_choices(question, options), row, where)
        return Item(kind, messages, options[place], "choice", tuple(options))
    right = _list(answer, f"{where}: answer") if answer.startswith("[") else [answer]
    messages = _turn(f"{question}\n{SHORT}", row, where)
    return Item(kind, messages, right[0], "short", references=tuple(right[1:]))


def _list(text: str, where: str) -> list[str]:
    try:
        values: Any = ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
        raise WingsError(f"{where} is {text!r:.60}; it must be a list of texts") from error
    if not isinstance(values, list) or not values:
        raise WingsError(f"{where} is {text!r:.60}; it must be a list of texts")
    return [str(value) for value in values]


def _turn(text: str, row: dict, where: str) -> tuple[dict, ...]:
    """The user's message with each picture where the text names it."""
    parts: list[dict] = []
    for n, piece in enumerate(PLACE.split(text)):
        if n % 2 == 0:
            parts += [{"type": "text", "text": piece}] if piece else []
            continue
        picture = row.get(f"image_{piece}")
        if not isinstance(picture, dict) or not picture.get("bytes"):
            raise WingsError(f"{where} names <image {piece}> and has no picture in image_{piece}")
        parts.append({"type": "image", "image": data_uri(picture["bytes"])})
    return ({"role": "user", "content": parts},)
