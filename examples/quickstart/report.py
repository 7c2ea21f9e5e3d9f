"""The quickstart's results: a printed table, `report.md`, `plot.png` and `results.json`."""

import json
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from wings.eval.report.method_results import HEADERS, MethodResult, markdown, plot, table_rows
from wings.eval.scoring.accuracy import Accuracy
from wings.examples.pages import join_parts
from wings.machine import machine, versions

from .methods import Method

TITLE = "A small language model learns to see"
LEGEND = (
    "Percent of held-out questions. text: asked alone. mixed: text, asked after a picture in the"
    " same conversation. pictures: about drawn pictures. time: both stages, on one core."
)


def read_results(
    methods: list[Method], results: dict[str, dict[str, Any]]
) -> tuple[Accuracy, list[MethodResult]]:
    """The language model's text score before training, and the result of every method."""
    method_results = []
    for method in methods:
        result = results[f"row-{method.key}"]
        method_results.append(
            MethodResult(
                name=method.name,
                llm_rate=method.llm_rate,
                trained=sum(result["trained"].values()),
                seconds=result["seconds"] + results[result["align"]]["seconds"],
                **{test: total(scores) for test, scores in result["scores"].items()},
            )
        )
    return total(results["before"]["text"]), method_results


def total(scores: dict[str, Any]) -> Accuracy:
    """The score over all kinds, as `jobs.as_dict` wrote it."""
    return Accuracy(scores["right"], scores["total"])


def print_table(console: Console, before: Accuracy, results: list[MethodResult]) -> None:
    """Prints the table."""
    table = Table(
        title=TITLE, title_style="bold", title_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    for header in HEADERS:
        table.add_column(header, justify="right" if header else "left", no_wrap=True)
    for n, row in enumerate(table_rows(before, results, intervals=False)):
        table.add_row(*row, style="dim" if n == 0 else "", end_section=n == 0)
    console.print()
    console.print(table)
    console.print(LEGEND, style="dim")


def save(
    folder: Path, before: Accuracy, results: list[MethodResult], document: dict[str, Any]
) -> None:
    """Writes `plot.png`, `report.md` and `results.json`."""
    plot(folder / "plot.png", before, results, TITLE)
    seed, seconds = document["seed"], document["seconds"]["total"]
    made = f"Seed {seed}, {seconds:.0f} seconds on two cores of {machine()['processor']}."
    page = join_parts(
        (
            f"# {TITLE}",
            "![text kept against pictures learned](plot.png)",
            markdown(before, results).rstrip(),
            LEGEND,
            f"{made} All figures: results.json.",
        )
    )
    (folder / "report.md").write_text(page, encoding="utf-8")
    document = {**document, "machine": machine(), "versions": versions()}
    (folder / "results.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
