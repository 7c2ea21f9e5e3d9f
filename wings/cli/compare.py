"""`wings compare`: reports of `wings eval` side by side, attention shift against text kept."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from wings.errors import WingsError
from wings.eval.attention.shift_plot import ShiftPoint, score_figure
from wings.eval.report.report import JSON
from wings.eval.scoring.accuracy import Accuracy

MEASURED = ("text", "pictures", "conversations")


@dataclass(frozen=True)
class ModelSummary:
    """What one model came to.

    Attributes:
        name: of its report's folder, or "LLM".
        scores: of each kind of questions that it was asked.
        shift: of the main branch with its interval, None where it was not measured.
    """

    name: str
    scores: dict[str, Accuracy]
    shift: tuple[float, tuple[float, float]] | None

    @property
    def cells(self) -> list[str]:
        """Of the table."""
        scores = [self.scores.get(name) for name in MEASURED]
        shift = "" if self.shift is None else f"{self.shift[0]:.3f}"
        return [self.name, *("" if s is None else f"{s.percent:.1f}" for s in scores), shift]


def compare(reports: Sequence[Path], output: Path) -> list[ModelSummary]:
    """Prints a table of several reports and draws their attention shifts against their text.

    Args:
        reports: folders that `wings eval` wrote, all against one LLM and with the same files.
        output: of the plot (PNG), which is not written where no report has both.

    Raises:
        WingsError: a folder without a report, or reports that were asked different questions.
    """
    documents = {folder: read(folder) for folder in reports}
    first, *others = documents
    for other in others:
        validate_same_questions(documents[first]["asked"], documents[other]["asked"], first, other)
    rows = [summarize("LLM", documents[first], "before", "llm")]
    rows += [summarize(folder.name, found, "after", "model") for folder, found in documents.items()]
    console = Console(highlight=False)
    table = Table("", *MEASURED, "attention shift")
    for row in rows:
        table.add_row(*row.cells)
    console.print(table)
    points = [
        ShiftPoint(row.name, *row.shift, row.scores["text"])
        for row in rows
        if row.shift is not None and "text" in row.scores
    ]
    if points:
        score_figure(points).savefig(output, dpi=160)
        console.print(f"{output}")
    else:
        console.print("No report has both text and an attention shift, so there is nothing to draw")
    return rows


def read(folder: Path) -> dict[str, Any]:
    """A report's JSON."""
    path = folder / JSON
    if not path.is_file():
        raise WingsError(f"{folder} holds no {JSON}; name folders that wings eval wrote")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        found["asked"]["files"], found["measurements"]
    except (ValueError, KeyError, TypeError) as error:
        raise WingsError(f"{path} is no report of wings eval; make it anew") from error
    return found


def validate_same_questions(ours: dict, theirs: dict, first: Path, other: Path) -> None:
    """Raises a `WingsError` where two reports cannot stand side by side."""
    for name in ("against", "files"):
        if ours[name] != theirs[name]:
            raise WingsError(
                f"{first} and {other} differ in what they asked ({name}: {ours[name]} and "
                f"{theirs[name]}); compare reports with the same --against and files"
            )


def summarize(name: str, found: dict[str, Any], side: str, subject: str) -> ModelSummary:
    """One model of a report."""
    measured = found["measurements"]
    scores = {}
    for kind in MEASURED:
        if kind in measured:
            # The first kind is all of them, or the only one.
            figures = next(iter(measured[kind]["kinds"].values()))[side]
            scores[kind] = Accuracy(figures["right"], figures["total"])
    shift = None
    if "attention" in measured:
        main = measured["attention"][subject]["branches"]["main"]
        if main["score"] is not None:
            shift = main["score"], tuple(main["interval"])
    return ModelSummary(name, scores, shift)
