"""Trains, composes and merges the models of all rows, scores them, and writes the page."""

import io
import json
import multiprocessing
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from wings.errors import WingsError, nearest
from wings.examples.drawings import DESCRIBED, Drawing, catalogue, named, split
from wings.examples.experiment.dataset import CLUSTERS
from wings.examples.experiment.studies import SEED as SPLIT
from wings.examples.experiment.trial import REPLAY_TOKENS
from wings.examples.schedule import WORKERS, Job, StepContext, run_jobs
from wings.examples.speech.speech_run import find_speaker
from wings.examples.speech.whisper import write_whisper
from wings.examples.weights import llm_answers, write_weights
from wings.output_folder import OutputFolder
from wings.train.preflight import checking, small_run

from . import senses_jobs as jobs
from .rows import ROWS, needed
from .senses_data import TEST, SensesData
from .senses_page import PAGE_FILES, write_page
from .senses_results import RUNS, RowResult, add_result, read_results
from .senses_size import TRIAL, SensesSize

MAKER = "wings.examples.senses"
SEEDS = (0, 1, 2)  # of both stages
LLM = "llm.json"  # scores of the untouched LLM


def run_senses(
    folder: Path, results: Path, keys: Sequence[str] = tuple(ROWS), seeds: Sequence[int] = SEEDS,
    workers: int = WORKERS, size: SensesSize | None = None, keep: bool = False,
) -> list[RowResult]:  # fmt: skip
    """Does the rows that are missing in `results`, seed by seed; writes the page after each.

    First, every row runs once on a few samples.

    Args:
        folder: of weights, data and models, made where they are missing.
        results: gets `runs.jsonl`, `llm.json`, the page and the plot.
        keys: of the rows.
        seeds: of both stages.
        workers: processes of one thread.
        size: smaller for a trial.
        keep: the models of a finished seed stay, some 12 GB.

    Raises:
        WingsError, PreflightError: a package is missing, or a part fails.
    """
    work, found = OutputFolder(folder, MAKER), OutputFolder(results, MAKER, "--results")
    with work.locked(), found.locked():
        work.record("weights", "data", "models")
        found.record(RUNS, LLM, *PAGE_FILES)
        make_weights(folder / "weights")
        context = multiprocessing.get_context("spawn")
        # A fresh process for each job frees the memory of the previous one.
        with ProcessPoolExecutor(workers, context, max_tasks_per_child=1) as pool:
            if size is None and any(missing(results, keys, seed) for seed in seeds):
                preflight(folder, keys, pool)
            return run_all(folder, results, keys, seeds, size or SensesSize(), keep, pool)


def preflight(folder: Path, keys: Sequence[str], pool: Executor) -> None:
    """Runs every part on a few samples in a folder that is removed.

    Raises:
        WingsError, PreflightError: a part fails; the message names it.
    """
    with small_run(folder) as scratch:
        (scratch / "weights").symlink_to((folder / "weights").resolve())
        (scratch / "results").mkdir()
        quiet = Console(file=io.StringIO())
        # With so few answers some bootstrap samples have no right one.
        with np.errstate(divide="ignore", invalid="ignore"):
            results = scratch / "results"
            run_all(scratch, results, keys, SEEDS[:1], TRIAL, False, pool, quiet, checking)


def run_all(
    folder: Path, results: Path, keys: Sequence[str], seeds: Sequence[int], size: SensesSize,
    keep: bool, pool: Executor, console: Console | None = None, step: StepContext = nullcontext,
) -> list[RowResult]:  # fmt: skip
    """Makes the data and does the rows that are missing; arguments as for `run_senses`."""
    console = console or Console()
    with step("make the data"):
        make_data(folder, size)
    with step("score the language model"):
        copy_llm(folder, results, pool, size)

    def on_done(job: Job, record: dict[str, Any], seed: int) -> None:
        if "failed" in record and step is checking:
            raise WingsError(f"preflight, {job.label}: {record['failed']}")
        kind, _, key = job.key.partition(":")
        if kind == "row":
            with step(f"write the page after {key}"):
                add_result(results, RowResult(key, seed, record))
                write_page(results, read_results(results), size)
        console.print(f"seed {seed}, {job.label}: {record.get('failed', 'done')}")

    for seed in seeds:
        todo = missing(results, keys, seed)
        run_jobs(pool, schedule(todo, seed, folder, size), partial(on_done, seed=seed), step)
        models = folder / "models" / f"seed{seed}"
        if not keep and models.exists() and not missing(results, tuple(ROWS), seed):
            shutil.rmtree(models)
    with step("write the page"):
        write_page(results, read_results(results), size)
    return read_results(results)


def missing(results: Path, keys: Sequence[str], seed: int) -> list[str]:
    """The rows without a line of a seed."""
    done = {one.row for one in read_results(results) if one.seed == seed}
    return [key for key in keys if key not in done]


def schedule(keys: Sequence[str], seed: int, folder: Path, size: SensesSize) -> list[Job]:
    """The jobs of some rows with one seed: a row follows the trainings that it needs."""
    found: dict[str, Job] = {}
    for key in keys:
        trainings = needed(ROWS[key])
        for one in trainings:
            found.setdefault(
                one.name,
                Job(
                    f"training:{one.name}", f"training {one.name}", jobs.train,
                    (one.name, seed, folder, size),
                    tuple(f"training:{earlier}" for earlier in one.earlier),
                ),
            )  # fmt: skip
        needs = tuple(f"training:{one.name}" for one in trainings)
        found[f"row:{key}"] = Job(
            f"row:{key}", ROWS[key].title, jobs.score, (key, seed, folder, size), needs
        )
    return list(found.values())


def make_weights(folder: Path) -> None:
    """Makes `llm/`, `tower/` and `whisper/` where they are missing."""
    write_weights(folder)
    if not (folder / "whisper" / "config.json").exists():
        write_whisper(folder / "whisper")


def make_data(folder: Path, size: SensesSize) -> None:
    """Makes the data where it is missing."""
    data = folder / "data"
    if (data / "whole").exists():
        return
    answer: Callable[[list[str]], list[str]] = partial(
        llm_answers, folder / "weights" / "llm", batch_size=64, max_new_tokens=REPLAY_TOKENS
    )
    SensesData(data, drawings(), find_speaker(), size, answer).write()
    (data / "whole").touch()


def drawings() -> list[Drawing]:
    """The drawings that are asked for by name."""
    return named(split([d for d in catalogue() if d.group not in DESCRIBED], SPLIT)["train"])


def copy_llm(folder: Path, results: Path, pool: Executor, size: SensesSize) -> None:
    """Scores the untouched LLM where that is missing, and writes `llm.json`."""
    known = folder / "data" / LLM
    if not known.exists():
        scores = pool.submit(jobs.score_llm, folder, size).result()
        clusters = json.loads((folder / "data" / CLUSTERS).read_text(encoding="utf-8"))
        record = {**scores, "clusters": {TEST: clusters}}
        known.write_text(json.dumps(record) + "\n", encoding="utf-8")
    shutil.copyfile(known, results / LLM)


def validate_keys(keys: Sequence[str]) -> None:
    """Raises a `WingsError` for an unknown row."""
    for key in keys:
        if key not in ROWS:
            raise WingsError(
                f"--rows: there is no row {key!r}{nearest(key, ROWS)}; name some of"
                f" {', '.join(ROWS)}."
            )
