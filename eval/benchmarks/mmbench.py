"""MMBench: choices about pictures, in a table that holds the pictures too.

Read is the table that its makers publish for the dev split (MMBench_DEV_EN.tsv and its like; the
test split comes without answers), as OpenCompass' VLMEvalKit loads it: tab-separated, one row a
pass, its columns `index`, `question`, `hint`, `A` to `D`, `answer`, `category`, `image`, and others
that are not needed. An empty cell may read `nan`. An `image` of at most 64 letters is the `index`
of the row that has it.

In *circular evaluation* (Liu et al. 2023, arXiv 2307.06281) a question of N choices is asked N
times, its choices moved on by one each time, and counts only if all N answers are right. The table
has these passes already: the row with `index` i + k 1,000,000 is the k-th one after row i, with the
same question. Here they are made anew from row i, so that a table without them gives the same.
"""

import base64
import binascii
import csv
from pathlib import Path

from wings.errors import WingsError, nearest
from wings.eval.items import Item
from wings.eval.scoring.score import LETTERS, with_choices

from .fields import data_uri, field, turn

PASSES = ("circular", "plain")
STEP = 1_000_000  # from the index of a pass to that of the next
REFERENCE = 64  # letters: a picture has more


def read_mmbench(table: str | Path, passes: str = PASSES[0]) -> list[Item]:
    """Items scored by choice, counted by category; those of one question stand together.

    Args:
        table: the TSV.
        passes: "circular" for every question with its choices in N places, "plain" for once.

    Raises:
        WingsError: a missing file, column or answer; a picture that is no base64; a later pass of a
            question that is not in the table.
    """
    if passes not in PASSES:
        raise WingsError(
            f"passes is {passes!r}{nearest(passes, PASSES)}; it must be one of {', '.join(PASSES)}"
        )
    table = Path(table)
    rows = _rows(table)
    named = {}
    for n, row in enumerate(rows):
        where = f"{table}: row {n + 1}"
        index = field(row, "index", str, where)
        if not index.isdigit():
            raise WingsError(f"{where}: index is {index!r}; it must be a whole number")
        if int(index) in named:
            raise WingsError(f"{where} has the index of another row, {index}; give one table")
        named[int(index)] = (row, where)
    items = []
    for index, (row, where) in named.items():
        if index >= STEP and index % STEP not in named:
            raise WingsError(
                f"{where}: index {index} is a pass of question {index % STEP}, which has no row; "
                "give MMBench's whole TSV"
            )
        if index < STEP:
            items += _items(row, where, _image(row, named, where), passes, f"{table.stem} {index}")
    return items


def _rows(table: Path) -> list[dict[str, str]]:
    if not table.is_file():
        raise WingsError(f"there is no file {table}; give MMBench's TSV")
    limit = csv.field_size_limit(2**31 - 1)  # a picture is one field
    try:
        with table.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines, delimiter="\t"))
    finally:
        csv.field_size_limit(limit)
    if not rows:
        raise WingsError(f"{table} has no rows; give MMBench's TSV")
    return rows


def _items(row: dict[str, str], where: str, image: str, passes: str, circle: str) -> list[Item]:
    """One item, or as many as there are choices."""
    letters = [one for one in LETTERS if row.get(one, "nan") not in ("", "nan", None)]
    answer = field(row, "answer", str, where)
    if answer not in letters:
        raise WingsError(f"{where}: answer is {answer!r}, and its choices are {letters}")
    hint, question = row.get("hint", ""), field(row, "question", str, where)
    asked = f"{hint}\n{question}" if hint not in ("", "nan", None) else question
    kind = field(row, "category", str, where)
    choices = [row[one] for one in letters]
    circular = passes == "circular"
    items = []
    for first in range(len(choices) if circular else 1):
        moved = (*choices[first:], *choices[:first])
        shown = turn(with_choices(asked, moved), [image])
        items.append(
            Item(kind, shown, row[answer], "choice", moved, circle=circle if circular else "")
        )
    return items


def _image(row: dict[str, str], named: dict[int, tuple[dict[str, str], str]], where: str) -> str:
    """The picture of a row as a data URI, its own or that of the row that it names."""
    image = field(row, "image", str, where)
    if len(image) <= REFERENCE and image.isdigit() and int(image) in named:
        row, where = named[int(image)]
        image = field(row, "image", str, where)
    if len(image) <= REFERENCE:
        raise WingsError(
            f"{where}: image is {image!r:.40}; it must be base64, or the index of a row that has it"
        )
    try:
        return data_uri(base64.b64decode(image, validate=True))
    except binascii.Error as error:
        raise WingsError(f"{where}: image is no base64 ({error})") from error
