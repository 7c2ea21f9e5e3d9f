"""`wings experiment`: every method, every rate of its sweep, every seed; then the page."""

import io
import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from wings.examples.schedule import WORKERS, Job, run_jobs
from wings.examples.weights import llm_answers, write_weights
from wings.train.preflight import checking, small_run

from . import jobs
from .dataset import Dataset, ExperimentSize
from .experiment_page import write_page
from .measure import TESTS, guess
from .methods import ALIGNS, METHODS, SweptMethod
from .runs import SEEDS, ExperimentResults, ExperimentRun, RunResult, pending_runs

REPLAY_TOKENS = 48  # length limit of the LLM's own answers
RUNS, BEFORE, STAGE_1 = "runs.jsonl", "llm.json", "stage1.json"
PREFLIGHT_SIZE = ExperimentSize(
    align=4, instruct=6, text=8, drift=2, validation=2, test=3,
    # A small LLM knows facts: the page divides by the number of its right answers.
    of_text={"facts": (4, 4), "instructions": (1, 1), "arithmetic": (1, 0)},
    align_steps=1, steps=1, batch_size=2, text_tokens=12,
)  # fmt: skip


def experiment(
    folder: Path,
    results: Path,
    methods: tuple[SweptMethod, ...] = METHODS,
    size: ExperimentSize | None = None,
) -> ExperimentResults:
    """Does the runs that are missing, and writes the page after every run.

    First, one method of every kind runs once on a few samples. Runs in `results` are not
    repeated, whichever machine made them: the experiment can be stopped and resumed at any time.

    Args:
        folder: of weights, data and stage 1, made where they are missing.
        results: gets `runs.jsonl`, `llm.json`, `stage1.json`, `README.md` and the plots.
        methods: fewer for a trial.
        size: smaller for a trial.

    Raises:
        WingsError, PreflightError: a package is missing, or a part fails.
    """
    size = size or ExperimentSize()
    console = Console(highlight=False)
    results.mkdir(parents=True, exist_ok=True)
    write_weights(folder / "weights")
    if not is_done(results, size, methods):
        preflight(folder, methods)
    make_data(folder, size, console)
    context = multiprocessing.get_context("spawn")
    # A fresh process for each run frees the memory of the previous one.
    with ProcessPoolExecutor(WORKERS, context, max_tasks_per_child=1) as pool:
        if not (results / BEFORE).exists():
            console.print("asking the untouched language model")
            scores = pool.submit(jobs.score_llm, folder, size).result()
            write_json(results / BEFORE, {**scores, "guess": guess(folder / "data")})
        keys = [key for key in ALIGNS if any(method.align == key for method in methods)]
        console.print(f"stage 1 ({', '.join(keys)})")
        aligned = {key: pool.submit(jobs.align, key, folder, size) for key in keys}
        write_json(results / STAGE_1, {key: stage.result() for key, stage in aligned.items()})
        done = read_results(results)
        running: dict[Future, ExperimentRun] = {}
        while True:
            for run in pending_runs(done, size.steps, methods):
                if len(running) < WORKERS and run not in running.values():
                    running[pool.submit(jobs.run_method, run, folder, size)] = run
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                result = RunResult(running.pop(future), future.result())
                add_result(results, result)
                done = read_results(results)
                console.print(describe(done, result))
            write_page(results, done, size)
    write_page(results, done, size)
    return done


def is_done(results: Path, size: ExperimentSize, methods: tuple[SweptMethod, ...]) -> bool:
    """Returns whether all runs are finished."""
    if not all((results / name).exists() for name in (BEFORE, STAGE_1)):
        return False
    return next(pending_runs(read_results(results), size.steps, methods), None) is None


def make_data(folder: Path, size: ExperimentSize, console: Console) -> None:
    """Makes weights and data where they are missing."""
    write_weights(folder / "weights")
    whole = folder / "data" / "whole"
    if not whole.exists():
        console.print("drawing pictures, asking the language model for text to replay")
        llm = folder / "weights" / "llm"
        Dataset(
            folder / "data", size, lambda questions: llm_answers(llm, questions, 64, REPLAY_TOKENS)
        ).write()
        whole.touch()


def add_result(folder: Path, result: RunResult) -> None:
    """Appends a run to `runs.jsonl`."""
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    record = {**asdict(result.run), "date": now, **result.record}
    with (folder / RUNS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read_results(folder: Path) -> ExperimentResults:
    """Reads the finished runs of a folder of results."""
    lines: list[str] = []
    if (folder / RUNS).exists():
        lines = (folder / RUNS).read_text(encoding="utf-8").splitlines()
    results = []
    for record in map(json.loads, lines):
        run = ExperimentRun(*(record.pop(name) for name in ("method", "rate", "seed", "steps")))
        results.append(RunResult(run, record))
    llm, seconds = (
        json.loads((folder / name).read_text(encoding="utf-8")) for name in (BEFORE, STAGE_1)
    )
    return ExperimentResults(llm, results, seconds)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes one line of JSON."""
    path.write_text(json.dumps(value) + "\n", encoding="utf-8")


def describe(results: ExperimentResults, result: RunResult) -> str:
    """The scores of a run in one line."""
    if result.failed:
        return f"{result.run.name}: {result.record['failed']}"
    text, mixed, pictures = (results.kept(result, test) for test in TESTS)
    drift = result.record["scores"]["drift"]
    return (
        f"{result.run.name}: kept text {text:.0f}, mixed {mixed:.0f}, pictures {pictures:.0f};"
        f" drift {drift['alone']:.3f}, after a picture {drift['mixed']:.3f};"
        f" {result.record['cpu_seconds']:.0f} s"
    )


def preflight(folder: Path, methods: Sequence[SweptMethod]) -> None:
    """Runs every part of an experiment on a few samples, in a folder that is removed.

    Args:
        folder: of the experiment, with `weights/`.
        methods: of the experiment; one of every kind is run, at one rate.

    Raises:
        WingsError, PreflightError: a part fails; the message names it.
    """
    size = PREFLIGHT_SIZE
    with small_run(folder) as scratch:
        (scratch / "weights").symlink_to((folder / "weights").resolve())
        with checking("draw the data and ask the language model for text"):
            make_data(scratch, size, Console(file=io.StringIO()))
        chosen = one_of_each_kind(methods)
        keys = dict.fromkeys(method.align for method in chosen)
        runs = [ExperimentRun(m.key, m.rates[0], SEEDS[0], size.steps) for m in chosen]
        schedule = [Job("llm", "score the language model", jobs.score_llm, (scratch, size))]
        schedule += [Job(k, f"stage 1, {k}", jobs.align, (k, scratch, size)) for k in keys]
        schedule += [
            Job(
                run.name, f"stage 2 and scores, {method.name}", jobs.must_run_method,
                (run, scratch, size), needs=(method.align,),
            )
            for method, run in zip(chosen, runs, strict=True)
        ]  # fmt: skip
        with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as pool:
            done = run_jobs(pool, schedule, step=checking)
        with checking("score the language model"):
            scores = {**done["llm"], "guess": guess(scratch / "data")}
        write_json(scratch / BEFORE, scores)
        write_json(scratch / STAGE_1, {key: done[key] for key in keys})
        for method, run in zip(chosen, runs, strict=True):
            # A row of the table needs every rate of the sweep.
            for rate in method.rates:
                add_result(scratch, RunResult(replace(run, rate=rate), done[run.name]))
        # With so few answers some bootstrap samples have no right one.
        with checking("write the page"), np.errstate(divide="ignore", invalid="ignore"):
            write_page(scratch, read_results(scratch), size)


def one_of_each_kind(methods: Sequence[SweptMethod]) -> list[SweptMethod]:
    """The first method of every kind: the same parts, and the same trained parts.

    Text turns and replay are data: methods with and without them are of one kind.
    """
    kinds: dict[tuple, SweptMethod] = {}
    # Those with more keys come first: one run then tries several of them.
    for method in sorted(methods, key=lambda method: -len(method.keys)):
        parts = sorted({"lora"} & set(method.keys) | {"prefix"} & set(method.wings))
        attended = method.wings.get("router") == "attended"
        kind = (*parts, len(method.learners) > 0, attended, method.trains_llm)
        kinds.setdefault(kind, method)
    # A projector is trained in every other kind too.
    return [method for method in kinds.values() if method.swept != ("projector",)]
