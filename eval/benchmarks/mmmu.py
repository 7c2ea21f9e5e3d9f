"""Reads MMMU: college questions with up to seven pictures, multiple choice or open.

Reads a parquet file of MMMU/MMMU on the Hub (one a subject and split) or of its merged copy
lmms-lab/MMMU. Their cards list the fields; MMMU's `mmmu/utils` and lmms-eval's task show their use:

- `question` and `options` are texts with `<image 1>` to `<image 7>` at the pictures' places;
- `options` (two to nine) is the `repr` of a Python list;
- `answer` is a letter; for an open question a text or the `repr` of a list.

A picture that no text names is not shown. The test split has no answers ("?").
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
    """Items scored by choice or as short answers; their kind is the subfield.

    Open answers are normalised. Numbers are compared by value, also rounded to two decimals as in
    MMMU. MMMU's own scoring also finds numbers and words inside longer answers.

    Args:
        table: a parquet file: `question`, `options`, `answer`, `question_type`
            ("multiple-choice" or another word for open), `subfield`, and `image_1` to `image_7`
            with `bytes`.

    Raises:
        WingsError: a missing file, field or picture, or an answer that is none of the options.
    """
    table = Path(table)
    if not table.is_file():
        raise WingsError(f"There is no file {table}; pass a parquet file of MMMU.")
    try:
        rows = pyarrow.parquet.read_table(table).to_pylist()
    except pyarrow.lib.ArrowException as error:
        raise WingsError(f"{table} is not parquet ({error}); pass MMMU's own file.") from error
    return [_item(row, f"{table}: row {n + 1}") for n, row in enumerate(rows)]


def _item(row: dict, where: str) -> Item:
    question, answer = field(row, "question", str, where), field(row, "answer", str, where)
    kind = field(row, "subfield", str, where)
    if field(row, "question_type", str, where) == "multiple-choice":
        options = _list(field(row, "options", str, where), f"{where}: options")
        place = LETTERS.find(answer)
        if len(answer) != 1 or not 0 <= place < len(options):
            raise WingsError(
                f"{where}: answer is {answer!r}, but there are {len(options)} options."
            )
        messages = _turn(with_choices(question, options), row, where)
        return Item(kind, messages, options[place], "choice", tuple(options))
    right = _answers(answer)
    rounded = {f"{value:.2f}" for value in map(number_of, right) if value is not None}
    messages = _turn(f"{question}\n{SHORT}", row, where)
    references = (*right[1:], *sorted(rounded - set(right)))
    return Item(kind, messages, right[0], "short", references=references)


def _answers(text: str) -> list[str]:
    """The answers: several if the text is a list; an interval in brackets is one answer."""
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
        raise WingsError(f"{where} is {text!r:.60}; it must be a list of texts.") from error
    if not isinstance(values, list) or not values:
        raise WingsError(f"{where} is {text!r:.60}; it must be a list of texts.")
    return [str(value) for value in values]


def _turn(text: str, row: dict, where: str) -> tuple[dict, ...]:
    """The user's message, with each picture where the text names it."""
    parts: list[dict] = []
    for n, piece in enumerate(PLACE.split(text)):
        if n % 2 == 0:
            parts += [{"type": "text", "text": piece}] if piece else []
            continue
        picture = row.get(f"image_{piece}")
        if not isinstance(picture, dict) or not picture.get("bytes"):
            raise WingsError(f"{where} names <image {piece}> but has no picture in image_{piece}.")
        parts.append({"type": "image", "image": data_uri(picture["bytes"])})
    return ({"role": "user", "content": parts},)
