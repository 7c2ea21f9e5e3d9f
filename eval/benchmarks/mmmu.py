"""MMMU: college questions with up to seven pictures, by choice or with a short answer.

Read is a parquet file of MMMU/MMMU on the Hub (a subject and a split each) or of its merged copy
lmms-lab/MMMU, whose cards list the fields; how they are meant is in MMMU's own `mmmu/utils` and in
lmms-eval's task: `question` and `options` are texts with `<image 1>` to `<image 7>` where a picture
stands, `options` (two to nine) is a Python list written out, `answer` is a letter, or for an open
question a text or a list written out. A picture that no text names is not shown. The answers of the
test split are kept back ("?").
"""

import ast
import re
from pathlib import Path
from typing import Any

import pyarrow.lib
import pyarrow.parquet

from wings.errors import WingsError
from wings.eval.items import Item
from wings.eval.scoring.score import LETTERS, with_choices
from wings.eval.scoring.short_answers import number_of

from .fields import SHORT, data_uri, field

PLACE = re.compile(r"<image (\d)>")


def read_mmmu(table: str | Path) -> list[Item]:
    """Items scored by choice, or as short answers, counted by subfield.

    Open answers are compared once normalised, numbers by their value and also where they are
    rounded to two decimals, as MMMU rounds; its own scoring also looks for numbers and words within
    a longer answer.

    Args:
        table: a parquet file: `question`, `options`, `answer`, `question_type`
            ("multiple-choice" or another word for open), `subfield`, and `image_1` to `image_7`
            with `bytes`.

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
    right = _answers(answer)
    rounded = {f"{value:.2f}" for value in map(number_of, right) if value is not None}
    messages = _turn(f"{question}\n{SHORT}", row, where)
    references = (*right[1:], *sorted(rounded - set(right)))
    return Item(kind, messages, right[0], "short", references=references)


def _answers(text: str) -> list[str]:
    """Several answers where a list is written out; an interval in brackets is one."""
    try:
        values: Any = ast.literal_eval(text) if text.startswith("[") else None
    except (ValueError, SyntaxError):
        values = None
    are_texts = isinstance(values, list) and all(isinstance(value, str) for value in values)
    return values if values and are_texts else [text]


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
