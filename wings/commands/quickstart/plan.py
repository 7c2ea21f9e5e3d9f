"""The jobs of a quickstart and what waits for what."""

from pathlib import Path

from wings.commands.quickstart import jobs
from wings.commands.quickstart.rows import ROWS, Row
from wings.commands.quickstart.schedule import Job
from wings.commands.quickstart.size import Size

__all__ = ["ROWS", "make_plan"]

# A language model and a vision tower that `wings quickstart --from-nothing` made and that ship
# with the package.
ASSETS = Path(__file__).parent / "assets"


def make_plan(
    rows: list[Row], folder: Path, seed: int, size: Size, from_nothing: bool
) -> list[Job]:
    """All jobs, the longest first among those that may run at the same time."""
    data, models, first = folder / "data", ASSETS, ()
    plan: list[Job] = []
    if from_nothing:
        models, first = folder / "seedling", ("llm", "tower")
        plan += [
            Job("llm", "train a language model on text", size.llm_steps, jobs.make_llm,
                (models / "llm", data, seed, size.llm_steps)),
            Job("tower", "train a vision tower on shapes", size.tower_steps, jobs.make_tower,
                (models / "tower", seed, size.tower_steps)),
        ]  # fmt: skip
    plan.append(
        Job("before", "the language model: text before", size.amounts.held_out, jobs.score_llm,
            (models / "llm", data), first)
    )  # fmt: skip
    aligned: list[dict] = []
    later: list[Job] = []
    for row in rows:
        if row.first_stage not in aligned:
            aligned.append(row.first_stage)
            n = len(aligned)
            plan.append(
                Job(f"align-{n}", f"stage 1: {row.first_stage_name}", size.align_steps,
                jobs.run_align,
                    (row, data, models, folder / "align" / str(n), size.align_steps, seed), first)
            )  # fmt: skip
        n = aligned.index(row.first_stage) + 1
        later.append(
            Job(f"row-{row.key}", f"stage 2: {row.title}", size.instruct_steps, jobs.run_row,
                (row, f"align-{n}", data, folder / "align" / str(n), folder / "rows" / row.key,
                 size.instruct_steps, seed), (f"align-{n}",))
        )  # fmt: skip
    return plan + later
