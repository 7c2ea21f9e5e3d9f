"""`wings compare`: compares reports of `wings eval` in a table and a plot."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from wings.errors import WingsError
from wings.eval.attention.shift_plot import ShiftPoint, score_figure
from wings.eval.report.report import JSON
from wings.eval.scoring.accuracy import Accuracy

from .terminal import make_console

MAKER = "wings compare"
# Kinds of plots, and the field that names the program which wrote one.
FIELDS = {"png": "Software", "pdf": "Creator", "svg": "Creator"}
QUESTIONS = ("text", "pictures", "conversations")


@dataclass(frozen=True)
class ModelSummary:
    """One model's results in a report.

    Attributes:
        name: of the report's folder, or "LLM".
        accuracies: by kind of questions.
        shift: attention shift of the main branch with its interval; None if not measured.
    """

    name: str
    accuracies: dict[str, Accuracy]
    shift: tuple[float, tuple[float, float]] | None

    @property
    def cells(self) -> list[str]:
        """The cells of its table row."""
        percents = [
            f"{self.accuracies[name].percent:.1f}" if name in self.accuracies else ""
            for name in QUESTIONS
        ]
        return [self.name, *percents, "" if self.shift is None else f"{self.shift[0]:.3f}"]


def compare(reports: Sequence[Path], output: Path) -> list[ModelSummary]:
    """Prints a table of several reports and plots attention shift against text accuracy.

    Args:
        reports: folders of `wings eval`, all with one LLM and the same files.
        output: path of the plot (PNG, PDF or SVG), new or written by this command; not written if
            no report has both figures.

    Raises:
        WingsError: a folder without a report, or reports with different questions.
    """
    validate_plot(output)
    documents = {folder: read_report(folder) for folder in reports}
    first, *others = documents
    for other in others:
        validate_same_questions(documents[first], documents[other], first, other)
    summaries = [summarize("LLM", documents[first], "before", "llm")]
    summaries += [summarize(path.name, one, "after", "model") for path, one in documents.items()]
    points = [
        ShiftPoint(one.name, *one.shift, one.accuracies["text"])
        for one in summaries
        if one.shift is not None and "text" in one.accuracies
    ]
    if points:
        kind = output.suffix.lower().removeprefix(".")
        drawn = io.BytesIO()
        score_figure(points).savefig(drawn, format=kind, dpi=160, metadata={FIELDS[kind]: MAKER})
        output.write_bytes(drawn.getvalue())
    console = make_console()
    table = Table("", *QUESTIONS, "attention shift")
    for summary in summaries:
        table.add_row(*summary.cells)
    console.print(table)
    if points:
        console.print(f"{output}")
    else:
        console.print("No report has both text and an attention shift; nothing to draw.")
    return summaries


def validate_plot(output: Path) -> None:
    """Raises a `WingsError` for another kind of file, or a file that this command did not write."""
    if output.suffix.lower().removeprefix(".") not in FIELDS:
        raise WingsError(f"--output {output}: name a file that ends in .{', .'.join(FIELDS)}.")
    if output.exists() and (not output.is_file() or MAKER.encode() not in output.read_bytes()):
        raise WingsError(f"--output {output} was not written by {MAKER}; name another file.")


def read_report(folder: Path) -> dict[str, Any]:
    """Reads a report's JSON."""
    path = folder / JSON
    if not path.is_file():
        raise WingsError(f"{folder} holds no {JSON}; name folders that wings eval wrote.")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        document["inputs"]["files"], document["measurements"]
    except (ValueError, KeyError, TypeError) as error:
        raise WingsError(f"{path} is no report of wings eval; run wings eval again.") from error
    return document


def validate_same_questions(ours: dict, theirs: dict, first: Path, other: Path) -> None:
    """Raises a `WingsError` if two reports used another LLM or other files."""
    for name in ("against", "files"):
        one, two = (document["inputs"][name] for document in (ours, theirs))
        if one != two:
            raise WingsError(
                f"{first} and {other} have different inputs ({name}: {one} and {two}); compare "
                "reports with the same --against and files."
            )


def summarize(name: str, document: dict[str, Any], side: str, model: str) -> ModelSummary:
    """One model of a report: side "before" and model "llm", or "after" and "model"."""
    measurements = document["measurements"]
    accuracies = {}
    for questions in QUESTIONS:
        if questions in measurements:
            # The first kind is all of them, or the only one.
            figures = next(iter(measurements[questions]["kinds"].values()))[side]
            interval = tuple(figures["interval"])
            accuracies[questions] = Accuracy(figures["right"], figures["total"], interval)
    shift = None
    if "attention" in measurements:
        main = measurements["attention"][model]["branches"]["main"]
        if main["score"] is not None:
            shift = main["score"], tuple(main["interval"])
    return ModelSummary(name, accuracies, shift)
