"""The page of the study `cheap`: what learners are worth and what they cost."""

import json
from collections.abc import Sequence
from pathlib import Path

from wings.examples.pages import join_parts, markdown_table

from .cells import BY_KEY, CHEAP, Cell
from .cheap import COST_NOISE, LENGTH, PICTURE_LOSS, TEXT_LOSS, CheapRow, winner
from .cost import MEASURED
from .experiment_page import SETUP, STYLE, findings
from .runs import SEEDS, RunResult
from .size import ExperimentSize
from .summary import CellSummary
from .tables import (
    BLANK,
    COLUMNS,
    SELECTION,
    WANTED,
    Cost,
    bracketed,
    branch_weights,
    cost_of,
    kind_tables,
    made,
    not_done,
    read_cost,
    recipes,
    reference,
    summaries_of,
    sweep_table,
)

CHEAP_PAGE = "cheap.md"
CHEAP_FINDINGS = "cheap-findings.md"  # written by a person who has read the page
RULE = (
    f"**The rule**, written before the first run: of the rows with text after a picture of at least"
    f" {WANTED} percent of the LLM's (if none has it, of those within {TEXT_LOSS:g} point of the"
    f" best), those stay whose pictures are at most {PICTURE_LOSS:g} points below the best. Of"
    f" these the lowest forward time at {LENGTH:,} tokens wins; times that differ by less than"
    f" {COST_NOISE:g} are equal, and then the row with more pictures wins."
)
COST_TEXT = (
    "*Cost* is the time of a forward pass over a row with 256 image tokens, with the bare LLM's as"
    " 1: median and quartiles of rounds that take every model once in turn. The tower hardly"
    " counts."
)
HEAD = (
    "row", "pictures", "text after", "KL after", "trained", "cost at 1,024", "cost at 2,048",
    "seeds",
)  # fmt: skip


def write_cheap_page(folder: Path, results: Sequence[RunResult], size: ExperimentSize) -> None:
    """Writes `cheap.md` from `llm.json`, `cost.json` and the runs that are finished."""
    llm = json.loads((folder / "llm.json").read_text(encoding="utf-8"))
    cost = read_cost(folder)
    summaries = summaries_of(results, CHEAP, llm, size)
    chosen = summaries_of(results, [cell for cell in MEASURED if cell not in CHEAP], llm, size)
    parts = [
        "# What is cheap", verdict(summaries, cost), RULE, findings(folder, CHEAP_FINDINGS),
        cheap_table([*summaries, *chosen], cost), reference(llm), COST_TEXT, measured(cost), SETUP,
        COLUMNS, made(size, "wings experiment --study cheap"),
        *kind_tables(summaries, llm, f"{STYLE} {BLANK}"),
        "## The sweeps", SELECTION, sweep_table(results, CHEAP, size),
        "## The recipes", recipes(CHEAP), not_done(results, CHEAP, size),
    ]  # fmt: skip
    (folder / CHEAP_PAGE).write_text(join_parts(parts), encoding="utf-8")


def verdict(summaries: Sequence[tuple[Cell, CellSummary]], cost: Cost) -> str:
    """The row that wins, in words."""
    rows = []
    for cell, of in summaries:
        ratio = cost_of(cost, cell, LENGTH)
        rows.append(
            CheapRow(
                cell.key, of.tests["pictures"].value, of.tests["mixed"].value,
                ratio[0] if ratio else None, len(of.seeds),
            )
        )  # fmt: skip
    best = winner(rows, [cell.key for cell in CHEAP], len(SEEDS), WANTED)
    if best is None:
        return "**No row wins yet**: the rule asks for all seeds and the cost of every row."
    return (
        f"**{BY_KEY[best.key].name}** wins by the rule below: {best.pictures:.1f} percent of"
        f" pictures, text after a picture {best.text:.1f} percent of the LLM's, cost"
        f" {best.cost:.2f}."
    )


def cheap_table(summaries: Sequence[tuple[Cell, CellSummary]], cost: Cost) -> str:
    """Pictures, text after a picture and cost of every row."""
    rows = []
    for cell, of in summaries:
        costs = (cost_of(cost, cell, length) for length in (1024, 2048))
        shown = ("{:.2f} ({:.2f} to {:.2f})".format(*c) if c else "" for c in costs)
        rows.append(
            (
                cell.name, *(bracketed(of.tests[test]) for test in ("pictures", "mixed")),
                f"{of.kl['mixed'].value:.3f}", branch_weights(of), *shown, len(of.seeds),
            )
        )  # fmt: skip
    return markdown_table(HEAD, rows)


def measured(cost: Cost) -> str:
    """The command and machine of the costs."""
    if not cost:
        return "The costs are not measured yet."
    again = ", ".join(f"{at['again'][0]:.2f} at {int(n):,}" for n, at in cost["ratios"].items())
    return (
        f"Costs: `{cost['command']}`, {cost['device']}, threads: {cost['threads']},"
        f" {cost['dtype']}, torch {cost['torch']}, {cost['rounds']} rounds, {cost['date']}, commit"
        f" {str(cost['commit'])[:12]}. The bare LLM against itself: {again}."
    )
