"""The page of the study `photographs`: the cells that matter on pictures that are no drawings."""

import json
from collections.abc import Sequence
from pathlib import Path

from wings.examples.pages import join_parts

from .cells import BY_KEY, PRIMARY
from .experiment_page import MODELS, findings
from .runs import RunResult
from .size import ExperimentSize
from .tables import (
    BLANK,
    BORROWED,
    COLUMNS,
    SELECTION,
    cell_table,
    kind_tables,
    made,
    not_done,
    primary,
    recipes,
    reference,
    summaries_of,
    sweep_table,
)

PHOTOGRAPHS_PAGE = "README.md"
# `--cells` names the row that won the study `cheap`, if it is another than the first.
PHOTOGRAPHS = tuple(BY_KEY[key] for key in (*PRIMARY, "full"))
SETUP = (
    f"{MODELS} photographs with captions (Debian's tuxpaint-stamps-default, GPL-2) by name, kind"
    " and number, and two pictures in one turn. Names are those of the captions. The pictures of"
    " the tests have other backgrounds, positions and angles than those of training; kinds are"
    " asked of photographs that are not trained on."
)


def write_photographs_page(
    folder: Path, results: Sequence[RunResult], size: ExperimentSize
) -> None:
    """Writes `README.md` from `llm.json` and the runs that are finished."""
    llm = json.loads((folder / "llm.json").read_text(encoding="utf-8"))
    cells = [*PHOTOGRAPHS, *(cell for cell in BY_KEY.values() if cell not in PHOTOGRAPHS)]
    summaries = summaries_of(results, cells, llm, size)
    pair = [BY_KEY[key] for key in PRIMARY]
    parts = ["# Photographs", primary(results, pair, llm, size), findings(folder)]
    if summaries:
        parts += [cell_table(summaries), reference(llm)]
    parts += [SETUP, COLUMNS, made(size, "wings experiment --study photographs")]
    parts += kind_tables(summaries, llm, BLANK)
    parts += ["## The sweeps", SELECTION, BORROWED, sweep_table(results, PHOTOGRAPHS, size)]
    parts += ["## The recipes", recipes(PHOTOGRAPHS), not_done(results, PHOTOGRAPHS, size)]
    (folder / PHOTOGRAPHS_PAGE).write_text(join_parts(parts), encoding="utf-8")
