"""MMBench: choices about pictures, in a table that holds the pictures too.

Each question is asked once; MMBench's own figure also asks it with its choices moved around and
counts it only if all are right (circular evaluation), which is not done here.
"""

import base64
import binascii
import csv
from pathlib import Path

from wings.errors import WingsError
from wings.eval.items import Item
from wings.eval.mark import with_choices

from .fields import data_uri, field, turn


def read_mmbench(table: str | Path) -> list[Item]:
    """Items scored by choice, counted by category.

    Args:
        table: the TSV: `index`, `question`, `hint`, `A` to `D` (empty where there are fewer),
            `answer` (a letter), `category`, `image` (base64, or the index of the row that has it).

    Raises:
        WingsError: a missing file, column or answer; a picture that is no base64.
    """
    table = Path(table)
    if not table.is_file():
        raise WingsError(f"there is no file {table}; give MMBench's TSV")
    limit = csv.field_size_limit(2**31 - 1)  # a picture is one field
    try:
        with table.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines, delimiter="\t"))
    finally:
        csv.field_size_limit(limit)
    shown: dict[str, str] = {}
    items = []
    for n, row in enumerate(rows):
        where = f"{table}: row {n + 1}"
        index, image = field(row, "index", str, where), field(row, "image", str, where)
        shown[index] = shown.get(image) or _picture(image, where)
        letters = [one for one in "ABCD" if row.get(one) and row[one] != "nan"]
        answer = field(row, "answer", str, where)
        if answer not in letters:
            raise WingsError(f"{where}: answer is {answer!r}, and its choices are {letters}")
        hint = row.get("hint") or ""
        question = field(row, "question", str, where)
        asked = f"{hint}\n{question}" if hint not in ("", "nan") else question
        choices = [row[one] for one in letters]
        items.append(
            Item(
                field(row, "category", str, where),
                turn(with_choices(asked, choices), [shown[index]]),
                row[answer],
                "choice",
                tuple(choices),
            )
        )
    if not items:
        raise WingsError(f"{table} has no rows; give MMBench's TSV")
    return items


def _picture(image: str, where: str) -> str:
    try:
        picture = base64.b64decode(image, validate=True)
    except binascii.Error as error:
        raise WingsError(f"{where}: image is no base64 ({error})") from error
    # The index of a row that comes later, or of none, would decode to next to nothing.
    if len(picture) < 16:
        raise WingsError(f"{where}: image is {image!r:.40}; it must be base64 or an earlier index")
    return data_uri(picture)
