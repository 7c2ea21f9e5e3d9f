"""Reads MMBench: multiple-choice questions about pictures, in a table with embedded pictures.

Reads the published table of a dev split (such as MMBench_DEV_EN.tsv; test splits have no answers)
as OpenCompass' VLMEvalKit does. It is tab-separated, one row a pass, with the columns `index`,
`question`, `hint`, `A` to `D`, `answer`, `category` and `image`. An empty cell may be `nan`. An
`image` of at most 64 characters is the `index` of the row that has it.

In *circular evaluation* (Liu et al. 2023, arXiv 2307.06281) a question of N choices is asked N
times with its choices rotated by one, and is right only if all N answers are. The table has these
passes: the row with `index` i + k * 1,000,000 is the k-th rotation of row i. Here they are built
from row i, so a table without them gives the same items.
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
STEP = 1_000_000  # between the indices of two passes
REFERENCE = 64  # characters; a picture has more


def read_mmbench(table: str | Path, passes: str = PASSES[0]) -> list[Item]:
    """Items scored by choice; their kind is the category. Items of one question are adjacent.

    Args:
        table: the TSV.
        passes: "circular" for all rotations of the choices, "plain" for one.

    Raises:
        WingsError: a missing file, column or answer; a picture that is not base64; a later pass of
            a question that is not in the table.
    """
    if passes not in PASSES:
        raise WingsError(
            f"passes is {passes!r}{nearest(passes, PASSES)}; it must be one of {', '.join(PASSES)}."
        )
    table = Path(table)
    rows = _rows(table)
    named = {}
    for n, row in enumerate(rows):
        where = f"{table}: row {n + 1}"
        index = field(row, "index", str, where)
        if not index.isdigit():
            raise WingsError(f"{where}: index is {index!r}; it must be a whole number.")
        if int(index) in named:
            raise WingsError(f"{where} has the index of another row, {index}; pass one table.")
        named[int(index)] = (row, where)
    items = []
    for index, (row, where) in named.items():
        if index >= STEP and index % STEP not in named:
            raise WingsError(
                f"{where}: index {index} is a pass of question {index % STEP}, which has no row; "
                "pass the complete TSV."
            )
        if index < STEP:
            items += _items(row, where, _image(row, named, where), passes, f"{table.stem} {index}")
    return items


def _rows(table: Path) -> list[dict[str, str]]:
    if not table.is_file():
        raise WingsError(f"There is no file {table}; pass MMBench's TSV.")
    limit = csv.field_size_limit(2**31 - 1)  # a picture is one field
    try:
        with table.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines, delimiter="\t"))
    finally:
        csv.field_size_limit(limit)
    if not rows:
        raise WingsError(f"{table} has no rows; pass MMBench's TSV.")
    return rows


def _items(row: dict[str, str], where: str, image: str, passes: str, circle: str) -> list[Item]:
    """One item, or as many as there are choices."""
    letters = [one for one in LETTERS if row.get(one, "nan") not in ("", "nan", None)]
    answer = field(row, "answer", str, where)
    if answer not in letters:
        raise WingsError(f"{where}: answer is {answer!r}, but its choices are {letters}.")
    hint, question = row.get("hint", ""), field(row, "question", str, where)
    text = f"{hint}\n{question}" if hint not in ("", "nan", None) else question
    kind = field(row, "category", str, where)
    choices = [row[one] for one in letters]
    circular = passes == "circular"
    items = []
    for first in range(len(choices) if circular else 1):
        rotated = (*choices[first:], *choices[:first])
        messages = turn(with_choices(text, rotated), [image])
        items.append(
            Item(kind, messages, row[answer], "choice", rotated, circle=circle if circular else "")
        )
    return items


def _image(row: dict[str, str], named: dict[int, tuple[dict[str, str], str]], where: str) -> str:
    """The picture of a row, or of the row that it refers to, as a data URI."""
    image = field(row, "image", str, where)
    if len(image) <= REFERENCE and image.isdigit() and int(image) in named:
        row, where = named[int(image)]
        image = field(row, "image", str, where)
    if len(image) <= REFERENCE:
        raise WingsError(
            f"{where}: image is {image!r:.40}; it must be base64, or the index of a row with one."
        )
    try:
        return data_uri(base64.b64decode(image, validate=True))
    except binascii.Error as error:
        raise WingsError(
            f"{where}: image is not base64 ({error}); pass the original table."
        ) from error
