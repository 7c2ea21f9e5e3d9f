"""`wings emoji`: a real LLM and vision tower from Python packages learn to read drawings."""

import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from wings.examples.drawings import catalogue
from wings.examples.run_record import run_record
from wings.examples.schedule import StepContext
from wings.examples.shipped import shipped_recipe
from wings.examples.training import train_short_rows, unwatched
from wings.examples.weights import llm_answers, write_weights
from wings.output_folder import OutputFolder
from wings.train.metrics.progress import Watch
from wings.train.preflight import checking, small_run
from wings.train.result import TrainResult
from wings.train.run_folder import RunFolder

from .data import EmojiAmounts, write
from .emoji_page import emoji_page
from .score import score_folder

# Output folder of a stage -> its shipped recipe.
STAGES = {"align": "emoji-align", "instruct": "emoji"}
COUNTS = "counts.json"
RESULTS, PAGE = "results.json", "README.md"
PREFLIGHT_AMOUNTS = EmojiAmounts(groups=2, drawings=6, renderings=(1, 1), questions=8)
PREFLIGHT_CHANGES = ("steps=2", "batch_size=2")


def emoji(folder: Path) -> dict[str, Any]:
    """Makes weights and data, trains both stages and scores, each where it is missing in `folder`.

    Writes `results.json` and `README.md` in `folder` and returns the results. Before training, all
    parts run once on a few samples.

    Raises:
        WingsError, PreflightError: a package is missing, or a part fails.
    """
    owned = OutputFolder(folder, "wings emoji")
    with owned.locked():
        owned.record("weights", "data", *STAGES, "blank.png", RESULTS, PAGE)
        return _emoji(folder)


def _emoji(folder: Path) -> dict[str, Any]:
    begin = time.perf_counter()
    write_weights(folder / "weights")
    spent = time.perf_counter() - begin
    if not RunFolder(folder / "instruct").finished:
        preflight(folder)
    return run_all(folder, EmojiAmounts(), spent=spent)


def preflight(folder: Path) -> None:
    """Runs every part on a few drawings, two steps a stage, in a folder that is removed.

    Args:
        folder: of the run, with `weights/`.

    Raises:
        WingsError, PreflightError: a part fails; the message names it.
    """
    with small_run(folder) as scratch:
        (scratch / "weights").symlink_to((folder / "weights").resolve())
        run_all(scratch, PREFLIGHT_AMOUNTS, PREFLIGHT_CHANGES, unwatched, checking)


def run_all(
    folder: Path,
    amounts: EmojiAmounts,
    changes: Sequence[str] = (),
    watch: Watch | None = None,
    step: StepContext = nullcontext,
    spent: float = 0.0,
) -> dict[str, Any]:
    """Makes data, both stages, scores and page, each where it is missing in `folder`.

    Args:
        folder: of the run, with `weights/`.
        amounts: of data.
        changes: of both recipes, `key=value`.
        watch: called with the metrics of every step; None prints lines.
        step: a context for every part, by its name.
        spent: seconds that the weights took.
    """
    begin = time.perf_counter()
    with step("write the data"):
        records = write_data(folder, amounts)
    seconds = {"weights and data": spent + time.perf_counter() - begin}
    with step("train both stages"):
        stages = {
            name: train_short_rows(shipped_recipe(recipe, folder, changes), watch)
            for name, recipe in STAGES.items()
        }
    seconds |= {name: stage.seconds for name, stage in stages.items()}
    begin = time.perf_counter()
    with step("score"):
        scores = score_folder(folder, verbose=watch is None)
    seconds["scoring"] = time.perf_counter() - begin
    with step("write the page"):
        return write_results(folder, seconds, records, stages, scores)


def write_data(folder: Path, amounts: EmojiAmounts) -> dict[str, int]:
    """Makes `data/` in `folder` if it is missing; returns the number of records of each file."""
    counts_file = folder / "data" / COUNTS
    if not counts_file.exists():
        counts = write(
            folder / "data",
            catalogue(),
            lambda questions: llm_answers(folder / "weights" / "llm", questions),
            amounts,
        )
        counts_file.write_text(json.dumps(counts))
    return json.loads(counts_file.read_text())


def write_results(
    folder: Path,
    seconds: dict[str, float],
    records: dict[str, int],
    stages: dict[str, TrainResult],
    scores: dict[str, Any],
) -> dict[str, Any]:
    """Writes `results.json` and `README.md`; returns their content."""
    results = {
        **run_record(f"wings emoji --output {folder}"),
        "seconds": {name: round(value) for name, value in seconds.items()},
        "records": records,
        "steps": {name: stage.steps for name, stage in stages.items()},
        "last loss": {name: round(stage.losses[-1], 3) for name, stage in stages.items()},
        **scores,
    }
    text = json.dumps(results, indent=1, ensure_ascii=False)
    (folder / RESULTS).write_text(text + "\n", encoding="utf-8")
    (folder / PAGE).write_text(emoji_page(results), encoding="utf-8")
    return results
