"""`wings emoji`: a real LLM and a real vision tower from ordinary packages learn to read drawings,
and are scored.
"""

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from wings.eval.report.machine import processor_name

from .page import page

if TYPE_CHECKING:
    from wings.train.metrics.progress import Watch
    from wings.train.run import TrainResult

    from .stages import Amounts

# The preflight's: of the recipes, and of the drawings.
FEW_STEPS = ("steps=2", "batch_size=2")
FEW_GROUPS, FEW_DRAWINGS, FEW_QUESTIONS = 2, 6, 8
Step = Callable[[str], AbstractContextManager[object]]


def emoji(folder: Path) -> dict[str, Any]:
    """Weights, data, both stages, scores: each where it is not in `folder` yet; returns the
    results.

    Writes `results.json` and `README.md` in `folder`. Before it trains, all of it runs once on a
    handful of samples.

    Raises:
        WingsError, PreflightError: a package is missing, or what would fail later.
    """
    # What only this command needs is imported when it runs.
    from wings.train.run_folder import RunFolder

    from .stages import ALL, write_weights

    begin = time.perf_counter()
    write_weights(folder / "weights")
    spent = time.perf_counter() - begin
    if not RunFolder(folder / "instruct").finished:
        preflight(folder)
    return run_all(folder, ALL, spent=spent)


def preflight(folder: Path) -> None:
    """Runs every part on a few drawings, two steps a stage, in a folder that is removed.

    Args:
        folder: of the run, with `weights/`.

    Raises:
        WingsError, PreflightError: what would fail later, with the step named.
    """
    from wings.train.preflight import checking, small_run

    from .stages import Amounts

    few = Amounts(FEW_GROUPS, FEW_DRAWINGS, renderings=(1, 1), questions=FEW_QUESTIONS)
    with small_run(folder) as scratch:
        (scratch / "weights").symlink_to((folder / "weights").resolve())
        run_all(scratch, few, FEW_STEPS, _silent, checking)


def _silent(*said: object) -> None:
    """Prints nothing of what it is told."""


def run_all(
    folder: Path,
    amounts: "Amounts",
    changes: Sequence[str] = (),
    watch: "Watch | None" = None,
    step: Step = nullcontext,
    spent: float = 0.0,
) -> dict[str, Any]:
    """Data, both stages, scores, page: each where it is not in `folder` yet.

    Args:
        folder: of the run.
        amounts: of data.
        changes: of both recipes, `key=value`.
        watch: called with the figures of every step, in place of lines.
        step: a context for every part, by its name.
        spent: seconds that the weights took.
    """
    from .score import score_folder
    from .stages import prepare, train_stages

    seconds = {}
    begin = time.perf_counter()
    with step("write the data"):
        records = prepare(folder, amounts)
    seconds["weights and data"] = spent + time.perf_counter() - begin
    with step("train both stages"):
        stages = train_stages(folder, changes, watch)
    for name, stage in zip(("align", "instruct"), stages, strict=True):
        seconds[name] = stage.seconds
    begin = time.perf_counter()
    with step("score"):
        scores = score_folder(folder, print if watch is None else _silent)
    seconds["scoring"] = time.perf_counter() - begin
    with step("write the page"):
        return write_results(folder, seconds, records, stages, scores)


def write_results(
    folder: Path,
    seconds: dict[str, float],
    records: dict[str, int],
    stages: "Sequence[TrainResult]",
    scores: dict[str, Any],
) -> dict[str, Any]:
    """Writes `results.json` and `README.md`, and returns what they hold."""
    results = {
        "command": f"wings emoji --output {folder}",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": {
            "processor": processor_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load average at the end": [round(load, 1) for load in os.getloadavg()],
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "seconds": {name: round(value) for name, value in seconds.items()},
        "records": records,
        "steps": {
            name: stage.steps for name, stage in zip(("align", "instruct"), stages, strict=True)
        },
        "last loss": {
            name: round(stage.losses[-1], 3)
            for name, stage in zip(("align", "instruct"), stages, strict=True)
        },
        **scores,
    }
    text = json.dumps(results, indent=1, ensure_ascii=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    (folder / "README.md").write_text(page(results), encoding="utf-8")
    return results
