"""The preflight of an experiment: one method of every kind, from its data to the page, in small."""

import io
import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from wings.errors import WingsError
from wings.train.preflight import checking, small_run

from . import jobs
from .guess import guess
from .methods import Method
from .page import write_page
from .run import BEFORE, STAGE_1, WORKERS, add_result, make_data, read_results
from .runs import SEEDS, Result, Run
from .sizes import Amounts, Size

FEW = Size(
    # Facts are what a small LLM knows: the page counts in its right answers.
    Amounts(
        align=4, instruct=6, text=8, drift=2, validation=2, test=3,
        of_text={"facts": (4, 4), "instructions": (1, 1), "arithmetic": (1, 0)},
    ),
    align_steps=1,
    steps=1,
    batch_size=2,
    sentences=12,
)  # fmt: skip


def check(folder: Path, methods: Sequence[Method]) -> None:
    """Runs every part of an experiment on a handful of samples, in a folder that is removed.

    Args:
        folder: of the experiment, with `weights/`.
        methods: of the experiment; one of every kind is run, at one rate.

    Raises:
        WingsError, PreflightError: what would fail later, with the step named.
    """
    with small_run(folder) as scratch:
        (scratch / "weights").symlink_to((folder / "weights").resolve())
        _run(scratch, kinds(methods))


def kinds(methods: Sequence[Method]) -> list[Method]:
    """The first method of every kind: the same parts, and the same of them trained.

    Text turns and replay are data: methods with and without them are of one kind.
    """
    found: dict[tuple, Method] = {}
    # Those with more keys come first: one run then tries several of them.
    for method in sorted(methods, key=lambda method: -len(method.keys)):
        parts = sorted({"lora"} & set(method.keys) | {"prefix"} & set(method.wings))
        router = method.wings.get("router")
        kind = (*parts, len(method.learners) > 0, router == "attended", method.trains_llm)
        found.setdefault(kind, method)
    # A projector is trained in every other kind too.
    return [method for method in found.values() if method.swept != ("projector",)]


def _run(folder: Path, methods: Sequence[Method]) -> None:
    with checking("draw the data and ask the language model for text"):
        make_data(folder, FEW, Console(file=io.StringIO()))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS, context) as pool:
        before = pool.submit(jobs.score_llm, folder, FEW.sentences)
        stages = {
            key: pool.submit(jobs.align, key, folder, FEW)
            for key in dict.fromkeys(method.align for method in methods)
        }
        with checking("score the language model"):
            found = before.result()
            found["guess"] = guess(folder / "data")
        (folder / BEFORE).write_text(json.dumps(found), encoding="utf-8")
        seconds = {}
        for key, stage in stages.items():
            with checking(f"stage 1, {key}"):
                seconds[key] = stage.result()
        (folder / STAGE_1).write_text(json.dumps(seconds), encoding="utf-8")
        runs = [pool.submit(jobs.run_method, _first(method), folder, FEW) for method in methods]
        for method, run in zip(methods, runs, strict=True):
            with checking(f"stage 2 and scores, {method.name}"):
                found = run.result()
                if "failed" in found:
                    raise WingsError(found["failed"])
            # A row of the table needs every rate of the sweep.
            for rate in method.rates:
                add_result(folder, Result(replace(_first(method), rate=rate), found))
    # Of so few answers some draws of the bootstrap have no right one.
    with checking("write the page"), np.errstate(divide="ignore", invalid="ignore"):
        write_page(folder, read_results(folder), FEW)


def _first(method: Method) -> Run:
    return Run(method.key, method.rates[0], SEEDS[0], FEW.steps)
