"""Jobs that wait for one another, run by a pool of worker processes."""

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        key: its name, unique in a schedule.
        label: as it is shown.
        steps: how many it reports, for its bar.
        run: called in a worker with `key` first, then `arguments`.
        arguments: must pickle.
        needs: keys of the jobs that must be done before.
    """

    key: str
    label: str
    steps: int
    run: Callable[..., dict[str, Any]]
    arguments: tuple
    needs: tuple[str, ...] = ()


def run_jobs(
    pool: Executor,
    jobs: list[Job],
    on_done: Callable[[Job, dict[str, Any]], None],
    step: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> dict[str, dict[str, Any]]:
    """Runs every job as soon as what it needs is done, earlier ones of the list first.

    Args:
        pool: of worker processes.
        jobs: what is run.
        on_done: called with a job and what it returned.
        step: a context for the result of every job, by the job's label.

    Returns:
        What each job returned, by key.

    Raises:
        Whatever a job raises; jobs that have not begun are then left out.
    """
    waiting = list(jobs)
    running: dict[Future, Job] = {}
    results: dict[str, dict[str, Any]] = {}
    while waiting or running:
        for job in [job for job in waiting if all(key in results for key in job.needs)]:
            waiting.remove(job)
            running[pool.submit(job.run, job.key, *job.arguments)] = job
        done: set[Future] = wait(running, return_when=FIRST_COMPLETED).done
        for future in sorted(done, key=lambda future: running[future].key):
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
