"""Parts of an example that are made once: the same command goes on where it stopped."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wings.examples.commit import code_version
from wings.output_folder import OutputFolder
from wings.train.result import TrainResult

DONE = "training.json"  # the record of a finished training, in its folder


def make_whole(work: OutputFolder, name: str, make: Callable[[Path], None]) -> Path:
    """Makes a folder of `work` among its drafts and renames it, unless it is there; returns it."""
    work.record(name)
    if not (work.path / name).exists():
        draft = work.draft(name)
        make(draft)
        draft.rename(work.path / name)
    return work.path / name


def finish(work: OutputFolder, name: str, run: Callable[[Path], TrainResult]) -> Path:
    """Trains into a folder of `work` unless it has a record; an interrupted training goes on.

    Args:
        work: of all parts.
        name: of the folder.
        run: trains into the folder that it is given.

    Returns:
        The folder. Its `training.json` has `commit`, `dirty`, `cpu_seconds` and the last `loss`.
    """
    work.record(name)
    folder = work.path / name
    if not (folder / DONE).is_file():
        record = timed(lambda: run(folder))
        (folder / DONE).write_text(json.dumps(record) + "\n", encoding="utf-8")
        print(f"{name}: {record}", flush=True)
    return folder


def timed(run: Callable[[], TrainResult]) -> dict[str, Any]:
    """The record of a training."""
    version, begun = code_version(), time.process_time()
    result = run()
    seconds = time.process_time() - begun
    last = result.losses[-10:]
    return {**version, "cpu_seconds": round(seconds, 1), "loss": sum(last) / len(last)}
