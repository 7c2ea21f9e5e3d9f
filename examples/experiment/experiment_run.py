"""`wings experiment`: the sweeps, both stages of every cell with every seed, then the page."""

import io
import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from pathlib import Path

import numpy as np
from rich.console import Console

from wings.errors import WingsError, nearest
from wings.examples.schedule import WORKERS, Job, run_jobs
from wings.examples.weights import llm_answers, write_weights
from wings.output_folder import OutputFolder
from wings.train.preflight import checking, small_run

from . import jobs
from .cells import BY_KEY, FIRST, PROJECTOR_RATES, Cell, Rates
from .dataset import CLUSTERS, Dataset
from .experiment_page import PAGE_FILES, write_page
from .runs import (
    SEEDS,
    SWEEP_SEED,
    ExperimentRun,
    RunResult,
    Stage1,
    Task,
    pending_tasks,
    percent,
    sweep_runs,
)
from .size import ExperimentSize

REPLAY_TOKENS = 32  # length limit of the LLM's own answers
MAKER, RUNS = "wings experiment", "runs.jsonl"
PREFLIGHT_SIZE = ExperimentSize(
    align=4, instruct=6, text=4, drift=2, blank=2,
    pictures={"name": (1, 2), "group": (1, 2), "pair": (0, 1), "style": (0, 2)},
    texts={"sums": (2, 2), "instructions": (1, 1), "facts": (2, 2), "reversals": (1, 1)},
    align_steps=1, steps=1, sweep_steps=(1, 1), batch_size=2, text_tokens=8,
)  # fmt: skip


def experiment(
    folder: Path,
    results: Path,
    cells: Sequence[Cell] = FIRST,
    seeds: Sequence[int] = SEEDS,
    workers: int = WORKERS,
    style: Path | None = None,
    size: ExperimentSize | None = None,
) -> list[RunResult]:
    """Does the runs that are missing, and writes the page after every run.

    First, every cell runs once on a few samples. Runs in `results` are not repeated, whichever
    machine made them: the experiment can be stopped and resumed at any time.

    Args:
        folder: of weights, data and stage 1, made where they are missing.
        results: gets `runs.jsonl`, `llm.json`, `README.md` and the plot.
        cells: to run; the sweeps that choose their rates are run too.
        seeds: of both stages.
        workers: processes of one thread.
        style: an unpacked package of other drawings for the style test, see `style.py`; used when
            the data is made.
        size: smaller for a trial.

    Raises:
        WingsError, PreflightError: a package is missing, or a part fails.
    """
    work, found = OutputFolder(folder, MAKER), OutputFolder(results, MAKER, "--results")
    with work.locked(), found.locked():
        work.record("weights", "data", "stage1", "runs")
        found.record(RUNS, jobs.KNOWN, *PAGE_FILES)
        return _experiment(folder, results, cells, seeds, workers, style, size or ExperimentSize())


def _experiment(
    folder: Path,
    results: Path,
    cells: Sequence[Cell],
    seeds: Sequence[int],
    workers: int,
    style: Path | None,
    size: ExperimentSize,
) -> list[RunResult]:
    console = Console(highlight=False)
    write_weights(folder / "weights")
    context = multiprocessing.get_context("spawn")
    # A fresh process for each task frees the memory of the previous one.
    with ProcessPoolExecutor(workers, context, max_tasks_per_child=1) as pool:
        if next(pending_tasks(read_runs(results), folder, cells, seeds, size), None):
            preflight(folder, cells, pool, style)
        make_data(folder, size, style, console)
        if not (folder / "data" / jobs.KNOWN).exists():
            console.print("asking the untouched language model")
            measure_llm(folder, size, pool)
        known = (folder / "data" / jobs.KNOWN).read_text(encoding="utf-8")
        (results / jobs.KNOWN).write_text(known, encoding="utf-8")
        running: dict[Future, Task] = {}
        while True:
            for task in pending_tasks(read_runs(results), folder, cells, seeds, size):
                if len(running) < workers and task not in running.values():
                    running[start(task, folder, size, pool)] = task
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task, record = running.pop(future), future.result()
                if isinstance(task, ExperimentRun):
                    add_run(results, RunResult(task, record))
                console.print(describe(task, record))
            write_page(results, read_runs(results), size)
    write_page(results, read_runs(results), size)
    return read_runs(results)


def start(task: Task, folder: Path, size: ExperimentSize, pool: Executor) -> Future:
    """Submits a task."""
    if isinstance(task, Stage1):
        return pool.submit(jobs.align, task, folder, size)
    return pool.submit(jobs.run, task, folder, size)


def make_data(folder: Path, size: ExperimentSize, style: Path | None, console: Console) -> None:
    """Makes the data where it is missing."""
    whole = folder / "data" / "whole"
    if not whole.exists():
        console.print("drawing pictures, asking the language model for text to replay")
        llm = folder / "weights" / "llm"
        Dataset(
            folder / "data", size,
            lambda questions: llm_answers(llm, questions, 64, REPLAY_TOKENS), style,
        ).write()  # fmt: skip
        whole.touch()


def measure_llm(folder: Path, size: ExperimentSize, pool: Executor) -> None:
    """Writes the untouched LLM's scores, and the clusters of the items, into the folder of data."""
    data = folder / "data"
    known = pool.submit(jobs.score_llm, folder, size).result()
    known["clusters"] = json.loads((data / CLUSTERS).read_text(encoding="utf-8"))
    (data / jobs.KNOWN).write_text(json.dumps(known) + "\n", encoding="utf-8")


def add_run(folder: Path, result: RunResult) -> None:
    """Appends a run to `runs.jsonl`."""
    with (folder / RUNS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(result.line()) + "\n")


def read_runs(folder: Path) -> list[RunResult]:
    """Reads the finished runs of a folder of results."""
    if not (folder / RUNS).exists():
        return []
    lines = (folder / RUNS).read_text(encoding="utf-8").splitlines()
    return [RunResult.from_line(json.loads(line)) for line in lines]


def describe(task: Task, record: dict | None) -> str:
    """A finished task in one line."""
    if isinstance(task, Stage1):
        return f"stage 1, {task.kind}, seed {task.seed}"
    if record is None or "failed" in record:
        return f"{task.name}: {record['failed'] if record else 'nothing'}"
    scores = ", ".join(f"{test} {percent(kinds):.0f}" for test, kinds in record["scores"].items())
    seconds = sum(record[stage]["cpu_seconds"] for stage in ("stage_1", "stage_2"))
    return f"{task.name}: {scores}; {seconds:.0f} s, scores {record['scoring']:.0f} s"


def cells_of(keys: Sequence[str]) -> list[Cell]:
    """The cells with some keys.

    Raises:
        WingsError: an unknown key.
    """
    for key in keys:
        if key not in BY_KEY:
            raise WingsError(
                f"--cells: there is no cell {key!r}{nearest(key, BY_KEY)}; name some of"
                f" {', '.join(BY_KEY)}."
            )
    return [BY_KEY[key] for key in keys]


def preflight(
    folder: Path, cells: Sequence[Cell], pool: Executor, style: Path | None = None
) -> None:
    """Runs every part of an experiment on a few samples, in a folder that is removed.

    Args:
        folder: of the experiment, with `weights/`.
        cells: of the experiment; each runs once.
        pool: of worker processes.
        style: as in `experiment`.

    Raises:
        WingsError, PreflightError: a part fails; the message names it.
    """
    size = PREFLIGHT_SIZE
    with small_run(folder) as scratch:
        (scratch / "weights").symlink_to((folder / "weights").resolve())
        with checking("draw the data and ask the language model for text"):
            make_data(scratch, size, style, Console(file=io.StringIO()))
        with checking("score the language model"):
            measure_llm(scratch, size, pool)
        results = scratch / "results"
        results.mkdir()
        known = scratch / "data" / jobs.KNOWN
        (results / jobs.KNOWN).write_text(known.read_text(encoding="utf-8"), encoding="utf-8")
        rates = Rates(PROJECTOR_RATES[0], cells[0].rates[0])
        steps = (size.align_steps, size.steps)
        runs = [ExperimentRun("sweep", cells[0].swept, rates, SWEEP_SEED, size.sweep_steps)]
        runs += [ExperimentRun("run", cell.key, rates, SEEDS[0], steps) for cell in cells]
        stages = dict.fromkeys(run.stage_1 for run in runs)
        schedule = [
            Job(str(stage), f"stage 1, {stage.kind}", jobs.align, (stage, scratch, size))
            for stage in stages
        ]
        schedule += [
            Job(
                run.name, f"stage 2 and scores, {BY_KEY[run.cell].name}", jobs.must_run,
                (run, scratch, size), needs=(str(run.stage_1),),
            )
            for run in runs
        ]  # fmt: skip
        done = run_jobs(pool, schedule, step=checking)
        for run in runs:
            add_run(results, RunResult(run, done[run.name]))
        # The page shows whole sweeps.
        for run in dict.fromkeys(run for cell in cells for run in sweep_runs(cell, size)):
            if run not in runs:
                add_run(results, RunResult(run, done[runs[0].name]))
        # With so few answers some bootstrap samples have no right one.
        with checking("write the page"), np.errstate(divide="ignore", invalid="ignore"):
            write_page(results, read_runs(results), size)
