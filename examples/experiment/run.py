"""`wings experiment`: every method, every rate of its sweep, every seed; then the page."""

import json
import multiprocessing
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

from rich.console import Console

from wings.examples.emoji.stages import own_answers, write_weights

from . import jobs
from .dataset import Dataset
from .guess import guess
from .methods import ALIGNS, METHODS, Method
from .page import write_page
from .runs import Result, Results, Run, wanted
from .sizes import Size

WORKERS = 2  # of one thread each: together a tenth faster than one run on both cores
ANSWERS = 48  # tokens of the LLM's own answers
RUNS, BEFORE, STAGE_1 = "runs.jsonl", "llm.json", "stage1.json"


def experiment(
    folder: Path, results: Path, methods: tuple[Method, ...] = METHODS, size: Size | None = None
) -> Results:
    """Does what is still to be done, and writes the page anew after every run.

    Before that, one method of every kind runs once on a handful of samples. A run that is in
    `results` is not repeated, wherever it was made: the experiment can be stopped at any time and
    go on later.

    Args:
        folder: weights, data and stage 1, made where they are not there.
        results: gets `runs.jsonl`, `llm.json`, `stage1.json`, `README.md` and the plots.
        methods: fewer for a trial.
        size: smaller for a trial.

    Raises:
        WingsError, PreflightError: a package is missing (what to install), or what would fail
            later.
    """
    from . import preflight

    size = size or Size()
    console = Console(highlight=False)
    results.mkdir(parents=True, exist_ok=True)
    write_weights(folder / "weights")
    if not is_done(results, size, methods):
        preflight.check(folder, methods)
    make_data(folder, size, console)
    context = multiprocessing.get_context("spawn")
    # A fresh process for each run: what one leaves behind in memory is no part of the next.
    with ProcessPoolExecutor(WORKERS, context, max_tasks_per_child=1) as pool:
        if not (results / BEFORE).exists():
            console.print("asking the untouched language model")
            found = pool.submit(jobs.score_llm, folder, size.sentences).result()
            found["guess"] = guess(folder / "data")
            (results / BEFORE).write_text(json.dumps(found) + "\n", encoding="utf-8")
        keys = [key for key in ALIGNS if any(method.align == key for method in methods)]
        console.print(f"stage 1 ({', '.join(keys)})")
        aligned = {key: pool.submit(jobs.align, key, folder, size) for key in keys}
        seconds = {key: future.result() for key, future in aligned.items()}
        (results / STAGE_1).write_text(json.dumps(seconds) + "\n", encoding="utf-8")
        done = read_results(results)
        running: dict[Future, Run] = {}
        while True:
            for run in wanted(done, size.steps, methods):
                if len(running) < WORKERS and run not in running.values():
                    running[pool.submit(jobs.run_method, run, folder, size)] = run
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                run = running.pop(future)
                add_result(results, Result(run, future.result()))
                done = read_results(results)
                console.print(line_of(done, run))
            write_page(results, done, size)
    write_page(results, done, size)
    return done


def is_done(results: Path, size: Size, methods: tuple[Method, ...]) -> bool:
    """Whether no run is left to do."""
    if not all((results / name).exists() for name in (BEFORE, STAGE_1)):
        return False
    return next(wanted(read_results(results), size.steps, methods), None) is None


def make_data(folder: Path, size: Size, console: Console) -> None:
    """Weights and data, where they are not there yet."""
    write_weights(folder / "weights")
    whole = folder / "data" / "whole"
    if not whole.exists():
        console.print("drawing pictures, asking the language model for text to replay")
        llm = folder / "weights" / "llm"
        Dataset(
            folder / "data",
            size.amounts,
            lambda asked: own_answers(llm, asked, 64, ANSWERS),
        ).write()
        whole.touch()


def add_result(folder: Path, result: Result) -> None:
    """One line more."""
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    record = {**asdict(result.run), "date": now, **result.found}
    with (folder / RUNS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read_results(folder: Path) -> Results:
    """What is there already."""
    lines: list[str] = []
    if (folder / RUNS).exists():
        lines = (folder / RUNS).read_text(encoding="utf-8").splitlines()
    found = []
    for record in map(json.loads, lines):
        run = Run(*(record.pop(name) for name in ("method", "rate", "seed", "steps")))
        found.append(Result(run, record))
    llm, seconds = (
        json.loads((folder / name).read_text(encoding="utf-8")) for name in (BEFORE, STAGE_1)
    )
    return Results(llm, found, seconds)


def line_of(results: Results, run: Run) -> str:
    """What came of a run, in a line."""
    result = next(result for result in results.results if result.run == run)
    if result.failed:
        return f"{run.name}: {result.found['failed']}"
    kept = {test: results.kept(result, test) for test in ("text", "mixed", "pictures")}
    drift = result.found["scores"]["drift"]
    return (
        f"{run.name}: kept text {kept['text']:.0f}, mixed {kept['mixed']:.0f}, pictures"
        f" {kept['pictures']:.0f}; drift {drift['alone']:.3f}, after a picture"
        f" {drift['mixed']:.3f}; {result.found['cpu_seconds']:.0f} s"
    )
