"""What a quickstart leaves behind: a table, `report.md`, `plot.png` and `results.json`."""

import json
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from wings.eval.report.machine import machine, versions
from wings.eval.report.method_results import HEADERS, MethodResult, markdown, plot, table_rows
from wings.eval.scoring.accuracy import Accuracy

from .methods import Row

TITLE = "A small language model learns to see"
EXPLAINED = (
    "Percent of held-out questions. text: asked alone. mixed: text, asked after a picture in the"
    " same conversation. pictures: about drawn pictures. time: both stages, on one core."
)


def outcomes_of(
    rows: list[Row], results: dict[str, dict[str, Any]]
) -> tuple[Accuracy, list[MethodResult]]:
    """The language model's text score before, and what became of it in every row."""
    outcomes = []
    for row in rows:
        result = results[f"row-{row.key}"]
        outcomes.append(
            MethodResult(
                name=row.name,
                llm_rate=row.llm_rate,
                trained=sum(result["trained"].values()),
                seconds=result["seconds"] + results[result["align"]]["seconds"],
                **{test: total(scores) for test, scores in result["scores"].items()},
            )
        )
    return total(results["before"]["text"]), outcomes


def total(described: dict[str, Any]) -> Accuracy:
    """The score over all kinds, as `jobs.described` wrote it."""
    return Accuracy(described["right"], described["total"])


def show(console: Console, before: Accuracy, outcomes: list[MethodResult]) -> None:
    """Prints the table."""
    table = Table(
        title=TITLE, title_style="bold", title_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    for header in HEADERS:
        table.add_column(header, justify="right" if header else "left", no_wrap=True)
    for n, row in enumerate(table_rows(before, outcomes, intervals=False)):
        table.add_row(*row, style="dim" if n == 0 else "", end_section=n == 0)
    console.print()
    console.print(table)
    console.print(EXPLAINED, style="dim")


def save(
    folder: Path, before: Accuracy, outcomes: list[MethodResult], results: dict[str, Any]
) -> None:
    """Writes `plot.png`, `report.md` and `results.json`."""
    plot(folder / "plot.png", before, outcomes, TITLE)
    seed, seconds = results["seed"], results["seconds"]["total"]
    made = f"Seed {seed}, {seconds:.0f} seconds on two cores of {machine()['processor']}."
    parts = (
        f"# {TITLE}",
        "![text kept against pictures learned](plot.png)",
        markdown(before, outcomes).rstrip(),
        EXPLAINED,
        f"{made} All figures: results.json.",
    )
    text = "\n\n".join(parts) + "\n"
    (folder / "report.md").write_text(text, encoding="utf-8")
    document = {**results, "machine": machine(), "versions": versions()}
    (folder / "results.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
