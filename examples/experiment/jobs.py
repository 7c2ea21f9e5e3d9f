"""The experiment's jobs, for worker processes of one thread: stage 1, and a run with its scores."""

import json
import resource
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from wings.errors import WingsError
from wings.examples.commit import code_version
from wings.examples.training import set_up_worker, train_short_rows, unwatched
from wings.processing.processor import WingsProcessor
from wings.train.build import load_model
from wings.train.param_groups import plan_groups
from wings.train.recipe import Recipe
from wings.train.run_folder import RunFolder

from .cells import BY_KEY
from .measure import measure_checkpoint, measure_llm, measure_turns
from .recipes import TOWER, align_recipe, instruct_recipe
from .runs import FIGURES, ExperimentRun, Stage1
from .size import ExperimentSize

KNOWN = "llm.json"  # scores of the untouched LLM, in the folder of data


def score_llm(folder: Path, size: ExperimentSize) -> dict[str, Any]:
    """Scores the untouched LLM."""
    set_up_worker()
    llm = folder / "weights" / "llm"
    tower = {"model_name": f"local-dir:{folder / 'weights' / 'tower'}", **TOWER}
    processor = WingsProcessor.from_vision_text_pretrained(tower, str(llm))
    return measure_llm(llm, processor, folder / "data", size.text_tokens)


def align(stage: Stage1, folder: Path, size: ExperimentSize) -> None:
    """Runs stage 1; its figures or its error go into its folder."""
    set_up_worker()
    output = stage.output(folder)
    (output / FIGURES).unlink(missing_ok=True)
    RunFolder(output).owned.remove()
    recipe = align_recipe(stage.kind, stage.rates, stage.seed, stage.steps, folder, output, size)
    try:
        figures = train_measured(recipe)
    except WingsError as error:
        output.mkdir(parents=True, exist_ok=True)
        figures = {"failed": str(error).replace(str(folder), "FOLDER")}
    (output / FIGURES).write_text(json.dumps(figures), encoding="utf-8")


def run(
    one: ExperimentRun, folder: Path, size: ExperimentSize, keep: bool = False
) -> dict[str, Any]:
    """Runs stage 2 of one run from its stage 1, scores the checkpoint, and deletes it.

    Args:
        one: the run.
        folder: of the experiment.
        size: of the experiment.
        keep: the checkpoint stays; that of a sweep does not.

    Returns:
        `trained` weights by group; `stage_1` and `stage_2`, see `train_measured`; `scoring`
        seconds; and what `measure_checkpoint` returns. Or `failed`, the error of a training.
    """
    set_up_worker()
    cell, start, output = BY_KEY[one.cell], one.stage_1.output(folder), one.output(folder)
    RunFolder(output).owned.remove()
    stage_1 = json.loads((start / FIGURES).read_text(encoding="utf-8"))
    if "failed" in stage_1:
        return stage_1
    recipe = instruct_recipe(cell, one.rates, one.seed, one.steps[1], folder, start, output, size)
    try:
        stage_2 = train_measured(recipe)
    except WingsError as error:
        return {"failed": str(error).replace(str(folder), "FOLDER")}
    plan = plan_groups(load_model(recipe), recipe)
    data = folder / "data"
    known = json.loads((data / KNOWN).read_text(encoding="utf-8"))
    part = "validation" if one.part == "sweep" else "test"
    begin = time.process_time()
    llm = folder / "weights" / "llm"
    found = measure_checkpoint(output, llm, data, part, size.text_tokens, known)
    seconds = round(time.process_time() - begin, 1)
    if not keep or one.part == "sweep":
        RunFolder(output).owned.remove()
    trained = {group.name: group.count for group in plan.trained if group.count}
    return {
        "trained": trained, "stage_1": stage_1, "stage_2": stage_2, "scoring": seconds, **found,
    }  # fmt: skip


def score_turns(
    one: ExperimentRun, folder: Path, data: Path, size: ExperimentSize
) -> dict[str, Any]:
    """Scores the kept checkpoint of a run on turns that need a picture and a fact.

    Args:
        one: the run.
        folder: of the experiment that kept its checkpoint.
        data: folder of the questions.
        size: of the experiment.

    Returns:
        `scores` {test: {kind: [0 or 1]}}, and of the code `commit` and `dirty`.
    """
    set_up_worker()
    scores = measure_turns(one.output(folder), data, size.text_tokens)
    return {"scores": scores, **code_version()}


def must_run(one: ExperimentRun, folder: Path, size: ExperimentSize) -> dict[str, Any]:
    """Runs stage 2 and its scores for the preflight.

    Raises:
        WingsError: a training gave up.
    """
    record = run(one, folder, size)
    if "failed" in record:
        raise WingsError(record["failed"])
    return record


def train_measured(recipe: Recipe) -> dict[str, Any]:
    """Trains a stage; returns its figures.

    Returns:
        `seconds` by the clock, `cpu_seconds`, `memory_mib` (peak of the process so far), `losses`,
        and of the code `commit`, `dirty` and `date`.
    """
    begin, version = time.process_time(), code_version()
    result = train_short_rows(recipe, unwatched)
    return {
        "seconds": round(result.seconds, 1),
        "cpu_seconds": round(time.process_time() - begin, 1),
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "losses": [round(loss, 3) for loss in result.losses],
        **version,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }
