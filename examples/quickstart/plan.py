"""The jobs of a quickstart and what waits for what."""

from pathlib import Path

from . import jobs
from .methods import ROWS, Row
from .schedule import Job
from .size import Size

__all__ = ["ROWS", "make_plan"]

# A language model and a vision tower that `wings quickstart --from-nothing` made and that ship
# with the package.
ASSETS = Path(__file__).parent / "assets"


def models_of(folder: Path, from_nothing: bool) -> Path:
    """The folder of the language model and the vision tower that a quickstart begins with."""
    return folder / "seedling" if from_nothing else ASSETS


def make_plan(
    rows: list[Row], folder: Path, seed: int, size: Size, from_nothing: bool
) -> list[Job]:
    """All jobs, the longest first among those that may run at the same time."""
    data, models = folder / "data", models_of(folder, from_nothing)
    first: tuple[str, ...] = ()
    plan: list[Job] = []
    if from_nothing:
        first = ("llm", "tower")
        llm = (models / "llm", data, seed, size.llm_steps)
        tower = (models / "tower", seed, size.tower_steps)
        plan = [
            Job("llm", "train a language model", size.llm_steps, jobs.make_llm, llm),
            Job("tower", "train a vision tower", size.tower_steps, jobs.make_tower, tower),
        ]
    scored = (models / "llm", data)
    count = size.amounts.held_out
    plan.append(Job("before", "ask the language model", count, jobs.score_llm, scored, first))
    aligned: list[tuple] = []  # first stages; rows that agree on theirs share it
    later: list[Job] = []
    for row in rows:
        first_stage = (row.first_stage, row.learner_rate)
        if first_stage not in aligned:
            aligned.append(first_stage)
            key, label = f"align-{len(aligned)}", f"stage 1: {row.first_stage_name}"
            align = (row, data, models, folder / key, size.align_steps, seed)
            plan.append(Job(key, label, size.align_steps, jobs.run_align, align, first))
        key, label = f"row-{row.key}", f"stage 2: {row.title}"
        start = f"align-{aligned.index(first_stage) + 1}"
        output = folder / "rows" / row.key
        instruct = (row, start, data, folder / start, output, size.instruct_steps, seed)
        later.append(Job(key, label, size.instruct_steps, jobs.run_row, instruct, (start,)))
    return plan + later
