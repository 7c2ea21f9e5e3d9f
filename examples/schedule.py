"""Jobs with dependencies, run by worker processes, and the table that shows their progress."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from multiprocessing import Queue
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TaskID, TextColumn, TimeElapsedColumn

WORKERS = 2  # processes of one thread each: faster than one process on both cores
# A context for each part of a run, by the part's name.
StepContext = Callable[[str], AbstractContextManager[object]]


@dataclass(frozen=True)
class Job:
    """One call in a worker process.

    Attributes:
        key: unique in a schedule.
        label: its name in the table.
        run: called with `arguments`.
        arguments: must pickle.
        needs: keys of the jobs that must be done before.
        steps: the number of steps that it reports, for its bar.
    """

    key: str
    label: str
    run: Callable[..., Any]
    arguments: tuple
    needs: tuple[str, ...] = ()
    steps: int = 0


def run_jobs(
    pool: Executor,
    jobs: list[Job],
    on_done: Callable[[Job, Any], None] = lambda job, result: None,
    step: StepContext = nullcontext,
) -> dict[str, Any]:
    """Runs every job as soon as the jobs it needs are done, earlier ones of the list first.

    Args:
        pool: of worker processes.
        jobs: the jobs.
        on_done: called with a job and its result.
        step: a context for taking the result of every job, by the job's label.

    Returns:
        The result of each job, by key.

    Raises:
        Any error of a job; jobs that have not begun are then cancelled.
    """
    waiting = list(jobs)
    running: dict[Future, Job] = {}
    results: dict[str, Any] = {}
    while waiting or running:
        for job in [job for job in waiting if all(key in results for key in job.needs)]:
            waiting.remove(job)
            running[pool.submit(job.run, *job.arguments)] = job
        done: set[Future] = wait(running, return_when=FIRST_COMPLETED).done
        for future in sorted(done, key=lambda future: jobs.index(running[future])):
            job = running.pop(future)
            try:
                with step(job.label):
                    results[job.key] = future.result()
            except BaseException:
                for other in running:
                    other.cancel()
                raise
            on_done(job, results[job.key])
    return results


class ProgressTable:
    """Shows one bar a job in a terminal, and elsewhere one line a finished job.

    Args:
        console: the console to draw on.
        reports: carries (job, done, total, note) from worker processes, and None at the end.
    """

    def __init__(self, console: Console, reports: "Queue") -> None:
        self.console = console
        self.reports = reports
        self.tasks: dict[str, TaskID] = {}
        self.progress = Progress(
            TextColumn("  {task.description:<46}"),
            BarColumn(bar_width=10),
            TextColumn("{task.percentage:>4.0f}%"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.listener = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> "ProgressTable":
        self.progress.start()
        self.listener.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.reports.put(None)
        self.listener.join(timeout=2)
        self.progress.stop()

    def begin(self, job: str, label: str, total: int) -> None:
        """Adds a bar for a job."""
        self.tasks[job] = self.progress.add_task(label, total=total, start=False, note="")

    def step(self, job: str, done: int, total: int, note: str = "") -> None:
        """Moves a bar; the job's clock starts with its first step."""
        if not self._task(job).started:
            self.progress.start_task(self.tasks[job])
        self.progress.update(self.tasks[job], completed=done, total=total, note=note)

    def finish(self, job: str, note: str) -> None:
        """Fills a bar and shows a note on the result."""
        task = self._task(job)
        total = int(task.total or 1)
        self.step(job, total, total, note)
        self.progress.stop_task(task.id)
        if not self.console.is_terminal:
            self.console.print(f"  {task.description:<46} {note}", soft_wrap=True)

    def _task(self, job: str) -> Task:
        return self.progress.tasks[self.progress.task_ids.index(self.tasks[job])]

    def _listen(self) -> None:
        while True:
            try:
                report = self.reports.get(timeout=1)
            except queue.Empty:
                continue
            if report is None:
                return
            self.step(*report)
