"""The experiment's jobs, for worker processes of one thread: align, train and measure."""

import shutil
import time
from pathlib import Path
from typing import Any

from wings.errors import WingsError
from wings.examples.training import set_up_worker, train_short_rows, unwatched

from .dataset import ExperimentSize
from .measure import measure_checkpoint, measure_llm
from .methods import BY_KEY, align_recipe, instruct_recipe, rates_of
from .runs import ExperimentRun


def align(key: str, folder: Path, size: ExperimentSize) -> float:
    """Runs stage 1 unless it is finished; returns its seconds."""
    set_up_worker()
    return round(train_short_rows(align_recipe(key, folder, size), unwatched).seconds, 1)


def score_llm(folder: Path, size: ExperimentSize) -> dict[str, Any]:
    """Scores the untouched LLM."""
    set_up_worker()
    return measure_llm(folder / "weights" / "llm", folder / "data", size.text_tokens)


def run_method(run: ExperimentRun, folder: Path, size: ExperimentSize) -> dict[str, Any]:
    """Runs stage 2 of one run, scores the checkpoint, and deletes it.

    Returns:
        `seconds`, `cpu_seconds` of the training, `losses`, `rates`, `scores`; or `failed`, the
        error of a training that gave up.
    """
    set_up_worker()
    method, output = BY_KEY[run.method], folder / "runs" / run.name
    shutil.rmtree(output, ignore_errors=True)
    recipe = instruct_recipe(method, run.rate, run.seed, run.steps, folder, output, size)
    rates = rates_of(method, run.rate)
    begun = time.process_time()
    try:
        result = train_short_rows(recipe, unwatched)
    except WingsError as error:
        return {"rates": rates, "failed": str(error).replace(str(folder), "FOLDER")}
    cpu_seconds = time.process_time() - begun
    llm = folder / "weights" / "llm"
    scores = measure_checkpoint(output, llm, folder / "data", size.text_tokens)
    shutil.rmtree(output)
    return {
        "rates": rates,
        "seconds": round(result.seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "losses": [round(loss, 3) for loss in result.losses],
        "scores": scores,
    }


def must_run_method(run: ExperimentRun, folder: Path, size: ExperimentSize) -> dict[str, Any]:
    """Runs stage 2 and its scores for the preflight.

    Raises:
        WingsError: the training gave up.
    """
    result = run_method(run, folder, size)
    if "failed" in result:
        raise WingsError(result["failed"])
    return result
