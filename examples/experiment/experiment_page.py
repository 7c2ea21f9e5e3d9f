"""The page of the study `stages`: the primary comparison, the first table, and further tables."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wings.examples.pages import join_parts, markdown_table

from .cells import BY_KEY, CELLS, FIRST, PRIMARY, Cell
from .plot import plot
from .runs import RunResult, percent
from .size import ExperimentSize
from .summary import difference
from .tables import (
    BLANK,
    COLUMNS,
    COST_COLUMN,
    SELECTION,
    WANTED,
    cell_table,
    finished,
    kind_tables,
    made,
    not_done,
    of_whole_seeds,
    primary,
    read_cost,
    recipes,
    reference,
    signed,
    summaries_of,
    sweep_table,
)

PAGE_FILES = ("README.md", "front.png")
FINDINGS = "findings.md"  # written by a person who has read the page
MODELS = (
    "SmolLM2-135M-Instruct (Apache-2.0) and DINOv2 ViT-S/14 (Apache-2.0), from ordinary Python"
    " packages, learn to read"
)
SETUP = (
    f"{MODELS} pictures: OpenMoji's drawings (openmoji.org, CC BY-SA 4.0) by name,"
    " kind and number, two pictures in one turn, and scenes of coloured shapes. Every cell gets the"
    " same pictures, text turns, steps and order in both stages. The LLM is frozen and every cell"
    " is off without an image. Cells differ in the branch (an image learner in every third block,"
    " or LoRA on all linear layers), in the stages that train it, and in its gate in stage 2."
)
STYLE = (
    "*Style* asks for the names of the same concepts in other drawings (Twemoji, CC BY 4.0),"
    " none of which was trained on; `--style FOLDER` adds this test, and `wings experiment --help`"
    " names the package."
)


def write_page(folder: Path, results: Sequence[RunResult], size: ExperimentSize) -> None:
    """Writes `README.md` and the plot from `llm.json` and the runs that are finished."""
    llm = json.loads((folder / "llm.json").read_text(encoding="utf-8"))
    cost = read_cost(folder)
    missing = not_done(results, FIRST, size)
    results = of_whole_seeds(results, FIRST, size)
    first = summaries_of(results, FIRST, llm, size)
    later = summaries_of(results, [cell for cell in CELLS if cell not in FIRST], llm, size)
    parts = [
        "# Image learners and LoRA, trained in equal stages",
        primary(results, [BY_KEY[key] for key in PRIMARY], llm, size),
        missing,
        findings(folder),
    ]
    if first:
        marks = [(c.name, s.tests["pictures"], s.tests["mixed"]) for c, s in first]
        plot(folder / "front.png", marks, percent(llm["guess"]["pictures"]), WANTED)
        image = "![text after a picture against pictures](front.png)"
        parts += [cell_table(first, cost), reference(llm), image]
    parts += [SETUP, COLUMNS, COST_COLUMN if cost else "", made(size, "wings experiment")]
    if later:
        parts += ["## Further cells", cell_table(later, cost)]
    parts += kind_tables([*first, *later], llm, f"{STYLE} {BLANK}")
    if first:
        parts += ["## Pairs of cells", *pair_table(results, [c for c, _ in first], llm, size)]
    parts += ["## The sweeps", SELECTION, sweep_table(results, CELLS, size)]
    parts += ["## The recipes", recipes(CELLS)]
    (folder / "README.md").write_text(join_parts(parts), encoding="utf-8")


def findings(folder: Path, name: str = FINDINGS) -> str:
    """The text of a person who has read the page; empty before."""
    path = folder / name
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def pair_table(
    results: Sequence[RunResult], cells: Sequence[Cell], llm: dict[str, Any], size: ExperimentSize
) -> Iterator[str]:
    """Paired differences of cells that differ in one thing."""
    rows = []
    for n, ours in enumerate(cells):
        for theirs in cells[n + 1 :]:
            names = [cell.key.split("-") for cell in (ours, theirs)]
            if sum(a != b for a, b in zip(*names, strict=True)) != 1:
                continue
            sides = [finished(results, cell, size) for cell in (ours, theirs)]
            found = [difference(sides[0], sides[1], t, llm) for t in ("pictures", "mixed")]
            if all(found):
                rows.append((f"{ours.name} - {theirs.name}", *(signed(e) for e in found if e)))
    yield (
        "Cells that differ in one thing, on the same questions and seeds. Points of all pictures,"
        " and of the LLM's right answers to text after the words."
    )
    yield markdown_table(("cells", "pictures", "text after"), rows)
