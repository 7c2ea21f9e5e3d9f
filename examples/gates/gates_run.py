"""Runs the gate experiment: trains every gate, measures, and writes the page.

The comparison that decides was named before the first run: the attended gate put on a model that
was trained without one, its gain chosen on validation items, against the attended gate trained;
by text questions after an image, with pictures at most 2 points below the ungated model.
"""

import json
from pathlib import Path

from wings.eval.processes import Processes
from wings.eval.result_cache import ResultCache
from wings.eval.runner import EvalRunner
from wings.examples.quickstart.jobs import ASSETS
from wings.examples.resumed import DONE, finish, make_whole
from wings.examples.training import set_up_worker
from wings.output_folder import OutputFolder

from .gates_data import draw_questions, draw_training
from .gates_page import write_page
from .measure import (
    BATCH,
    CONSTANTS,
    LONGEST,
    Questions,
    choose_gates,
    image_masses,
    load,
    measure,
    variants,
)
from .trainings import BY_NAME, FULL, GateTraining, all_trainings, run_align, run_instruct

MAKER = "wings.examples.gates"
RUNS, QUESTIONS = "runs.jsonl", "questions.json"
PAGE_FILES = ("README.md", "gates.png")


def run_gates(folder: Path, results: Path, train: bool = True) -> None:
    """Trains and measures what is missing, and writes the page after every training.

    Args:
        folder: of data and checkpoints.
        results: of `runs.jsonl`, the page and its plot.
        train: False to measure finished trainings only.
    """
    set_up_worker()
    work, found = OutputFolder(folder, MAKER), OutputFolder(results, MAKER, "--results")
    with work.locked(), found.locked():
        work.clear()
        found.record(RUNS, QUESTIONS, *PAGE_FILES)
        _run_gates(work, results, train)


def _run_gates(work: OutputFolder, results: Path, train: bool) -> None:
    folder = work.path
    make_whole(work, "questions", draw_questions)
    questions: Questions | None = None
    for training in all_trainings():
        if train:
            train_one(work, training)
        if not (folder / training.name / DONE).is_file() or is_measured(results, training):
            continue
        questions = questions or Questions.read(folder / "questions" / "test", ASSETS / "llm")
        (results / QUESTIONS).write_text(json.dumps(questions.to_dict()) + "\n", encoding="utf-8")
        measure_one(folder, results, training, questions)
        write_page(results)
    write_page(results)


def measure_one(folder: Path, results: Path, training: GateTraining, questions: Questions) -> None:
    """Measures a training with all that is put on it, and adds the lines to `runs.jsonl`."""
    checkpoint = folder / training.name
    shared = {
        "size": training.size,
        "seed": training.seed,
        "trained": training.gate,
        **json.loads((checkpoint / DONE).read_text(encoding="utf-8")),
    }
    processes = Processes()
    lines, chosen, only_none = [], {}, {}
    if training.gate == "none":
        cache = ResultCache(folder / f"cache-{training.name}", processes)
        runner = EvalRunner(processes, cache, BATCH, LONGEST)
        chosen = choose_gates(load(checkpoint), folder / "questions" / "validation", runner)
        start = image_masses(load(align_folder(folder, training)), questions)
        only_none = {"choice": chosen, "align_mass": start}
    # With little data the constant gates are left out, to save time.
    constants = CONSTANTS if training.size == FULL else ()
    for name, model in variants(checkpoint, training.gate, chosen, constants):
        extra = only_none if name == "none" else {}
        lines.append({**shared, "variant": name, **measure(model, name, questions), **extra})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    with (results / RUNS).open("a", encoding="utf-8") as file:
        file.write(text)


def is_measured(results: Path, training: GateTraining) -> bool:
    """True if `runs.jsonl` has the lines of a training; they are written together."""
    path = results / RUNS
    if not path.is_file():
        return False
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    key = (training.size, training.seed, training.gate)
    return any((line["size"], line["seed"], line["trained"]) == key for line in lines)


def train_one(work: OutputFolder, training: GateTraining) -> None:
    """Runs a training; its data and its first stage are made where they are missing."""
    folder, size, seed = work.path, BY_NAME[training.size], training.seed
    data = folder / f"data-{size.pictures or 'full'}-{seed}"
    make_whole(work, data.name, lambda path: draw_training(path, seed, size.pictures))
    start, output = align_folder(folder, training), folder / training.name
    work.record(f"cache-{training.name}")
    finish(work, start.name, lambda folder: run_align(size, seed, data, folder))
    finish(work, output.name, lambda folder: run_instruct(training, data, start, folder))


def align_folder(folder: Path, training: GateTraining) -> Path:
    """The folder of the first stage, which the gates of a size and seed share."""
    steps = BY_NAME[training.size].align_steps
    return folder / f"{training.name.split('-')[0]}-{steps}-align-{training.seed}"
