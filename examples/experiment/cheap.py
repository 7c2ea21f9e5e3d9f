"""The rule that chooses the recommended recipe among the rows of the study `cheap`.

It was written before the first run:

1. Rows count when every row has all seeds and a cost; until then there is no winner.
2. Wanted is text after a picture of at least 95 percent of the LLM's (`tables.WANTED`), by the mean
   over seeds. If no row reaches it, the rows within `TEXT_LOSS` points of the best stay.
3. Of these, the rows stay whose pictures are at most `PICTURE_LOSS` points below the best of them.
4. Of these, the lowest forward time at `LENGTH` tokens wins, in units of the bare LLM's. Times that
   differ by less than `COST_NOISE` are equal; then the row with more pictures wins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LENGTH = 1024  # tokens
TEXT_LOSS = 1.0  # points
PICTURE_LOSS = 2.0  # points
COST_NOISE = 0.01


@dataclass(frozen=True)
class CheapRow:
    """The figures of a row that the rule reads.

    Attributes:
        key: of the cell.
        pictures: percent, mean over seeds.
        text: text after a picture in percent of the LLM's, mean over seeds.
        cost: forward time at `LENGTH` tokens, the bare LLM's = 1; None where it is not measured.
        seeds: number of finished seeds.
    """

    key: str
    pictures: float
    text: float
    cost: float | None
    seeds: int


def winner(
    rows: Sequence[CheapRow], keys: Sequence[str], seeds: int, wanted: float
) -> CheapRow | None:
    """The row that wins by the rule; None while one is missing.

    Args:
        rows: that have a result.
        keys: of all rows.
        seeds: that each row must have.
        wanted: percent of the LLM's text after a picture.
    """
    of: Mapping[str, CheapRow] = {row.key: row for row in rows}
    chosen = [of[key] for key in keys if key in of]
    if len(chosen) < len(keys) or any(row.cost is None or row.seeds < seeds for row in chosen):
        return None
    kept = [row for row in chosen if row.text >= wanted]
    if not kept:
        best = max(row.text for row in chosen)
        kept = [row for row in chosen if row.text >= best - TEXT_LOSS]
    best = max(row.pictures for row in kept)
    kept = [row for row in kept if row.pictures >= best - PICTURE_LOSS]
    costs = {row.key: row.cost for row in kept if row.cost is not None}
    least = min(costs.values())
    return max(
        (row for row in kept if costs[row.key] < least + COST_NOISE), key=lambda row: row.pictures
    )
