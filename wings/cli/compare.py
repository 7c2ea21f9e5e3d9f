"""`wings compare`: compares reports of `wings eval` in a table and a plot.

Reports may have different parts. Parts that several reports have must be the same questions.
"""

import io
import itertools
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
from wings.eval.senses import EVERY, SEEN, SENSES, EvalSense

from .terminal import make_console, make_table

MAKER = "wings compare"
# Kinds of plots, and the field that names the program which wrote one.
FIELDS = {"png": "Software", "pdf": "Creator", "svg": "Creator"}
# Measurements with questions, and their columns.
QUESTIONS = {
    "text": "text",
    **{sense.questions: sense.nouns for sense in SENSES.values()},
    **{sense.conversations: f"text after {sense.one}" for sense in EVERY},
}
# Columns of the table of models that only see.
USUAL = ("text", SEEN.questions, SEEN.conversations)
# Attention shifts, and their columns.
SHIFTS = {
    sense.attention: "attention shift" + f" around {sense.one}" * bool(sense.suffix)
    for sense in EVERY
}
MISSING = "-"


@dataclass(frozen=True)
class ModelSummary:
    """One model's results in a report.

    Attributes:
        name: of the report's folder, or "LLM".
        accuracies: by kind of questions.
        shifts: attention shift of the main branch with its interval, by measurement.
    """

    name: str
    accuracies: dict[str, Accuracy]
    shifts: dict[str, tuple[float, tuple[float, float]]]

    def cell(self, name: str) -> str:
        """A table's cell of one measurement."""
        if name in self.shifts:
            return f"{self.shifts[name][0]:.3f}"
        return f"{self.accuracies[name].percent:.1f}" if name in self.accuracies else MISSING

    def point(self, sense: EvalSense = SEEN) -> ShiftPoint | None:
        """Its point of a sense's plot; None without a shift, or without text of either kind."""
        text, after = map(self.accuracies.get, ("text", sense.conversations))
        if sense.attention not in self.shifts or not (text or after):
            return None
        return ShiftPoint(self.name, *self.shifts[sense.attention], text, after)


def compare(reports: Sequence[Path], output: Path) -> list[ModelSummary]:
    """Prints a table of several reports and plots attention shift against text accuracy.

    Args:
        reports: folders of `wings eval`, all with one LLM; the questions of a kind are the same in
            all reports that have them.
        output: path of the plot (PNG, PDF or SVG), new or written by this command; not written if
            no report has an attention shift and text, alone or after an item. It is of images, or
            of sounds where no report has it of images.

    Raises:
        WingsError: a folder without a report, or reports with different questions.
    """
    validate_plot(output)
    documents = {folder: read_report(folder) for folder in reports}
    for one, other in itertools.combinations(documents, 2):
        validate_same_llm(documents[one], documents[other], one, other)
        validate_same_questions(documents[one], documents[other], one, other)
    names = [folder.name for folder in documents]
    summaries = [
        summarize(folder.name if names.count(folder.name) == 1 else str(folder), one)
        for folder, one in documents.items()
    ]
    summaries.insert(0, summarize_llm([*documents.values()]))
    plots = {
        sense: points
        for sense in EVERY
        if (points := [point for one in summaries if (point := one.point(sense))])
    }
    if plots:
        sense, points = next(iter(plots.items()))
        kind = output.suffix.lower().removeprefix(".")
        drawn = io.BytesIO()
        figure, metadata = score_figure(points, sense=sense), {FIELDS[kind]: MAKER}
        figure.savefig(drawn, format=kind, dpi=160, metadata=metadata)
        output.write_bytes(drawn.getvalue())
    console = make_console()
    console.print(make_comparison(summaries))
    for line in missing_parts(summaries):
        console.print(line)
    if plots:
        console.print(f"{output}", soft_wrap=True)
    else:
        console.print("No report has both text and an attention shift; nothing to draw.")
    return summaries


def make_comparison(summaries: Sequence[ModelSummary]) -> Table:
    """The table of all models: a row each, or a column each if a report has other senses."""
    columns, usual = QUESTIONS | SHIFTS, (*USUAL, SEEN.attention)
    found = {name for one in summaries for name in (*one.accuracies, *one.shifts)}
    if found <= {*usual}:
        table = make_table("", *(columns[name] for name in usual))
        for summary in summaries:
            table.add_row(summary.name, *map(summary.cell, usual))
        return table
    table = make_table("", *(summary.name for summary in summaries))
    for name in columns:
        if name in found:
            table.add_row(columns[name], *(summary.cell(name) for summary in summaries))
    return table


def missing_parts(summaries: Sequence[ModelSummary]) -> list[str]:
    """A sentence on each model that lacks what another one has."""
    has = {summary.name: {*summary.accuracies, *summary.shifts} for summary in summaries}
    found = set().union(*has.values())
    lines = []
    for summary in summaries:
        lacks = found - has[summary.name]
        missing = [title for part, title in (QUESTIONS | SHIFTS).items() if part in lacks]
        if missing:
            lines.append(f"{summary.name} was not measured on: {', '.join(missing)}.")
    return lines


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


def validate_same_llm(ours: dict, theirs: dict, first: Path, other: Path) -> None:
    """Raises a `WingsError` if two reports used another LLM, by name and by weights."""
    one, two = (document["inputs"]["against"] for document in (ours, theirs))
    weights = [document.get("llm", {}).get("fingerprint") for document in (ours, theirs)]
    if one != two and (None in weights or weights[0] != weights[1]):
        raise WingsError(
            f"{first} and {other} have different LLMs ({one} and {two}); compare reports with the"
            " same --against."
        )


def validate_same_questions(ours: dict, theirs: dict, first: Path, other: Path) -> None:
    """Raises a `WingsError` for questions of one kind that differ between two reports."""
    groups = {sense.conversations: "conversations" for sense in EVERY}
    for measurement in QUESTIONS:
        if not all(measurement in document["measurements"] for document in (ours, theirs)):
            continue
        name = groups.get(measurement, measurement)
        # The words of the questions, wherever their files are.
        one, two = (
            document["inputs"].get("questions", {}).get(name) for document in (ours, theirs)
        )
        if one is None or two is None:
            one, two = (document["inputs"]["files"].get(name) for document in (ours, theirs))
        if one != two:
            files = (", ".join(d["inputs"]["files"].get(name) or ()) for d in (ours, theirs))
            raise WingsError(
                f"{first} and {other} asked different questions as --{name}"
                f" ({' and '.join(files)}); compare reports of the same questions."
            )


def summarize(name: str, document: dict[str, Any], is_llm: bool = False) -> ModelSummary:
    """One model of a report: the checkpoint, or the LLM."""
    measurements = document["measurements"]
    side, model = ("before", "llm") if is_llm else ("after", "model")
    accuracies = {}
    for questions in QUESTIONS:
        if questions in measurements:
            # The first kind is all of them, or the only one.
            figures = next(iter(measurements[questions]["kinds"].values()))[side]
            interval = tuple(figures["interval"])
            accuracies[questions] = Accuracy(figures["right"], figures["total"], interval)
    shifts = {}
    for part in SHIFTS:
        if part in measurements:
            main = measurements[part][model]["branches"]["main"]
            if main["score"] is not None:
                shifts[part] = main["score"], tuple(main["interval"])
    return ModelSummary(name, accuracies, shifts)


def summarize_llm(documents: Sequence[dict[str, Any]]) -> ModelSummary:
    """The LLM, each part from the first report that has it."""
    found = [summarize("LLM", document, is_llm=True) for document in documents]
    summary = ModelSummary("LLM", {}, {})
    for one in reversed(found):
        summary.accuracies.update(one.accuracies)
        summary.shifts.update(one.shifts)
    return summary
