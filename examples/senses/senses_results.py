"""Lines of `runs.jsonl`: rows with a seed, and their records."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .rows import ROWS

RUNS = "runs.jsonl"


@dataclass(frozen=True)
class RowResult:
    """A row with one seed, and its record: see `senses_jobs.score`."""

    row: str
    seed: int
    record: dict[str, Any]

    @property
    def failed(self) -> bool:
        """Returns whether the row ended without a model."""
        return "failed" in self.record


def add_result(results: Path, found: RowResult) -> None:
    """Appends a line."""
    line = {"row": found.row, "seed": found.seed, **found.record}
    with (results / RUNS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_results(results: Path) -> list[RowResult]:
    """Reads all lines; none where the file is missing."""
    if not (results / RUNS).exists():
        return []
    lines = map(json.loads, (results / RUNS).read_text(encoding="utf-8").splitlines())
    return [RowResult(line.pop("row"), line.pop("seed"), line) for line in lines]


def results_of(results: Sequence[RowResult], key: str) -> list[RowResult]:
    """The results of a row, by seed."""
    assert key in ROWS
    return sorted((one for one in results if one.row == key), key=lambda one: one.seed)
