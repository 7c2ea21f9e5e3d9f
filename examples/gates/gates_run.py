"""Runs the gate experiment: trains every gate, measures, and writes the page."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wings.examples.training import set_up_worker

from .gates_data import draw_questions, draw_training
from .trainings import BY_NAME, GateTraining, all_trainings, run_align, run_instruct

DONE = "training.json"


def train_all(folder: Path) -> None:
    """Runs every training that `folder` lacks, on one thread."""
    set_up_worker()
    make_whole(folder / "questions", draw_questions)
    for training in all_trainings():
        train_one(folder, training)


def train_one(folder: Path, training: GateTraining) -> Path:
    """The folder of a finished training; its data and stages are made where they are missing."""
    size, seed = BY_NAME[training.size], training.seed
    shared = training.name.split("-")[0]
    data = folder / f"data-{size.pictures or 'full'}-{seed}"
    make_whole(data, lambda path: draw_training(path, seed, size.pictures))
    start = folder / f"{shared}-{size.align_steps}-align-{seed}"
    finish(start, lambda: run_align(size, seed, data, start))
    output = folder / training.name
    finish(output, lambda: run_instruct(training, data, start, output))
    return output


def make_whole(folder: Path, make: Callable[[Path], None]) -> None:
    """Makes a folder under another name and renames it, unless it is there."""
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    writing = folder.with_name(f"writing-{folder.name}")
    shutil.rmtree(writing, ignore_errors=True)
    make(writing)
    writing.rename(folder)


def finish(folder: Path, run: Callable[[], dict[str, Any]]) -> None:
    """Runs a training unless the folder has its record; an interrupted one goes on."""
    if (folder / DONE).is_file():
        return
    record = run()
    (folder / DONE).write_text(json.dumps(record) + "\n", encoding="utf-8")
    print(f"{folder.name}: {record}", flush=True)


if __name__ == "__main__":
    train_all(Path(sys.argv[1]))
