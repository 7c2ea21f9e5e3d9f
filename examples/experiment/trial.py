"""`Trial`: a study with its cells, seeds and size, what it does, and its preflight."""

import io
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from wings.examples.schedule import Job, run_jobs
from wings.examples.weights import llm_answers, write_weights
from wings.train.preflight import checking, small_run

from . import jobs
from .cells import BY_KEY, PROJECTOR_RATES, Cell
from .dataset import CLUSTERS, Dataset
from .packages import Packages
from .recipes import Rates
from .runs import (
    SEEDS,
    SWEEP_SEED,
    ExperimentRun,
    RunResult,
    Stage1,
    Task,
    add_run,
    pending_tasks,
    percent,
    read_runs,
    sweep_runs,
)
from .size import ExperimentSize
from .studies import Study

REPLAY_TOKENS = 32  # length limit of the LLM's own answers
PREFLIGHT_SIZE = ExperimentSize(
    align=4, instruct=6, text=4, drift=2, turns=1, blank=2,
    texts={"sums": (2, 2), "instructions": (1, 1), "facts": (2, 2), "reversals": (1, 1)},
    align_steps=1, steps=1, sweep_steps=(1, 1), batch_size=2, text_tokens=8,
)  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """A study with the cells, seeds, size and packages that it is run with.

    Attributes:
        study, cells, seeds, size, packages: as in `experiment_run.experiment`.
        keep: the checkpoints of the runs stay; those of sweeps do not.
        others: folders of an experiment and its results, whose kept checkpoints the study scores
            too; None for none.
    """

    study: Study
    cells: Sequence[Cell]
    seeds: Sequence[int]
    size: ExperimentSize
    packages: Packages
    keep: bool = False
    others: tuple[Path, Path] | None = None

    def run(self, folder: Path, results: Path, workers: int) -> list[RunResult]:
        """Does what is missing.

        Args:
            folder: of weights, data and stage 1, made where they are missing.
            results: of the runs and the page.
            workers: processes of one thread.
        """
        console = Console(highlight=False)
        write_weights(folder / "weights")
        context = multiprocessing.get_context("spawn")
        # A fresh process for each task frees the memory of the previous one.
        with ProcessPoolExecutor(workers, context, max_tasks_per_child=1) as pool:
            if next(self.pending(folder, results), None):
                self.preflight(folder, pool)
            self.prepare(folder, results, pool, console)
            running: dict[Future, Task] = {}
            while True:
                for task in self.pending(folder, results):
                    if len(running) < workers and task not in running.values():
                        running[self.start(task, folder, pool)] = task
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    task, record = running.pop(future), future.result()
                    if isinstance(task, ExperimentRun):
                        add_run(results, RunResult(task, record))
                    console.print(describe(task, record))
                self.study.write_page(results, read_runs(results), self.size)
            if self.others and self.study.kept:
                self.score_others(folder, results, *self.others, pool, console)
        self.study.write_page(results, read_runs(results), self.size)
        return read_runs(results)

    def score_others(
        self, folder: Path, results: Path, kept: Path, lines: Path, pool: Executor, console: Console
    ) -> None:
        """Scores checkpoints that another study kept, each once."""
        done = {result.run for result in read_runs(results, self.study.kept)}
        for one in (result.run for result in read_runs(lines)):
            if one not in done and (one.output(kept) / "config.json").exists():
                work = (one, kept, folder / "data", self.size)
                record = pool.submit(jobs.score_turns, *work).result()
                add_run(results, RunResult(one, record), self.study.kept)
                console.print(f"{one.name}: scored")

    def start(self, task: Task, folder: Path, pool: Executor) -> Future:
        """Submits a task."""
        if isinstance(task, Stage1):
            return pool.submit(jobs.align, task, folder, self.size)
        return pool.submit(jobs.run, task, folder, self.size, self.keep)

    def pending(self, folder: Path, results: Path) -> Iterator[Task]:
        """The tasks that can begin now, in order."""
        return pending_tasks(read_runs(results), folder, self.cells, self.seeds, self.size)

    def prepare(self, folder: Path, results: Path, pool: Executor, console: Console) -> None:
        """Makes the data and scores the untouched LLM where that is missing."""
        make_data(self.study, folder, self.size, self.packages, console)
        known = folder / "data" / jobs.KNOWN
        if not known.exists():
            console.print("asking the untouched language model")
            measure_llm(folder, self.size, pool)
        (results / jobs.KNOWN).write_text(known.read_text(encoding="utf-8"), encoding="utf-8")

    def preflight(self, folder: Path, pool: Executor) -> None:
        """Runs every part on a few samples, each cell once, in a folder that is removed.

        Args:
            folder: of the experiment, with `weights/`.
            pool: of worker processes.

        Raises:
            WingsError, PreflightError: a part fails; the message names it.
        """
        pictures = dict.fromkeys(self.size.pictures, (1, 1))
        small = replace(self, size=replace(PREFLIGHT_SIZE, pictures=pictures))
        with small_run(folder) as scratch:
            (scratch / "weights").symlink_to((folder / "weights").resolve())
            small.check(scratch, pool)

    def check(self, scratch: Path, pool: Executor) -> None:
        """Runs every part once, with one seed and no choice of rates."""
        size, results = self.size, scratch / "results"
        results.mkdir()
        with checking("draw the data and ask the language model for text"):
            make_data(self.study, scratch, size, self.packages, Console(file=io.StringIO()))
        with checking("score the language model"):
            self.prepare(scratch, results, pool, Console(file=io.StringIO()))
        rates = Rates(PROJECTOR_RATES[0], self.cells[0].rates[0])
        steps = (size.align_steps, size.steps)
        first = self.cells[0].swept
        runs = [ExperimentRun("sweep", first, rates, SWEEP_SEED, size.sweep_steps)]
        runs += [ExperimentRun("run", cell.key, rates, SEEDS[0], steps) for cell in self.cells]
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
        for run in dict.fromkeys(run for cell in self.cells for run in sweep_runs(cell, size)):
            if run not in runs:
                add_run(results, RunResult(run, done[runs[0].name]))
        # With so few answers some bootstrap samples have no right one.
        with checking("write the page"), np.errstate(divide="ignore", invalid="ignore"):
            self.study.write_page(results, read_runs(results), size)


def make_data(
    study: Study, folder: Path, size: ExperimentSize, packages: Packages, console: Console
) -> None:
    """Makes the data of a study in `folder`, which has `weights/`, where it is missing."""
    whole = folder / "data" / "whole"
    if not whole.exists():
        console.print("drawing pictures, asking the language model for text to replay")
        llm = folder / "weights" / "llm"
        gallery = study.gallery(folder / "data", packages)
        replay = partial(llm_answers, llm, batch_size=64, max_new_tokens=REPLAY_TOKENS)
        Dataset(gallery, size, replay).write()
        whole.touch()


def measure_llm(folder: Path, size: ExperimentSize, pool: Executor) -> None:
    """Writes the untouched LLM's scores, and the clusters of the items, into the folder of data."""
    data = folder / "data"
    known = pool.submit(jobs.score_llm, folder, size).result()
    known["clusters"] = json.loads((data / CLUSTERS).read_text(encoding="utf-8"))
    (data / jobs.KNOWN).write_text(json.dumps(known) + "\n", encoding="utf-8")


def describe(task: Task, record: dict | None) -> str:
    """A finished task in one line."""
    if isinstance(task, Stage1):
        return f"stage 1, {task.kind}, seed {task.seed}"
    if record is None or "failed" in record:
        return f"{task.name}: {record['failed'] if record else 'nothing'}"
    scores = ", ".join(f"{test} {percent(kinds):.0f}" for test, kinds in record["scores"].items())
    seconds = sum(record[stage]["cpu_seconds"] for stage in ("stage_1", "stage_2"))
    return f"{task.name}: {scores}; {seconds:.0f} s, scores {record['scoring']:.0f} s"
