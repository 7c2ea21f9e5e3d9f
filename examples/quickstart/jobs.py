"""The quickstart's jobs: functions of paths and numbers for worker processes, and their schedule.

Models this small do not use two cores from one process, so every job runs on one thread, two jobs
at a time.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict
from multiprocessing import Queue
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from wings.eval.generate import answer_items
from wings.eval.items import Item, read_items
from wings.eval.scoring.accuracy import Accuracy, overall, score_by_kind
from wings.examples.schedule import Job
from wings.examples.training import set_up_worker
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor
from wings.train.recipe import Recipe
from wings.train.run import train

from .dataset import QuickstartSize
from .methods import Method, align_recipe, instruct_recipe
from .tiny_llm import train_llm
from .tiny_tower import train_tower

TESTS = ("text", "mixed", "pictures")
SECONDS_BETWEEN_REPORTS = 0.2
# A language model and a vision tower that `wings quickstart --from-nothing` made and that ship
# with the package.
ASSETS = Path(__file__).parent / "assets"


class Reporter:
    """Sends (job, done, total, note) to the process that draws the bars, a few times a second."""

    queue: "Queue | None" = None

    def __init__(self, job: str, total: int) -> None:
        self.job, self.total, self.done, self.last = job, total, 0, 0.0

    def step(self, note: str = "", steps: int = 1) -> None:
        """Counts further steps."""
        self.done += steps
        now = time.monotonic()
        if self.queue and (now - self.last > SECONDS_BETWEEN_REPORTS or self.done == self.total):
            self.queue.put((self.job, self.done, self.total, note))
            self.last = now

    def step_with_loss(self, loss: float) -> None:
        """Counts one step and shows its loss."""
        self.step(f"loss {loss:.2f}")


def begin(queue: "Queue | None") -> None:
    """Sets up a worker process that reports on `queue`."""
    Reporter.queue = queue
    set_up_worker()


def make_tower(job: str, folder: Path, seed: int, steps: int) -> dict[str, Any]:
    """Trains the vision tower."""
    start = time.perf_counter()
    accuracy = 100 * train_tower(folder, seed, steps, Reporter(job, steps).step_with_loss)
    note = f"names {accuracy:.1f}% of the patches"
    return {"patches_named": accuracy, "seconds": time.perf_counter() - start, "note": note}


def make_llm(job: str, folder: Path, data: Path, seed: int, steps: int) -> dict[str, Any]:
    """Trains the language model on the text."""
    start = time.perf_counter()
    reporter = Reporter(job, steps)
    parameters = train_llm(folder, data / "text.jsonl", seed, steps, reporter.step_with_loss)
    note = f"{parameters:,} parameters"
    return {"parameters": parameters, "seconds": time.perf_counter() - start, "note": note}


def score_llm(job: str, folder: Path, data: Path) -> dict[str, Any]:
    """Scores the language model on the held-out text, before it sees a picture."""
    items = read_items(data / "text_held_out.jsonl")
    reporter = Reporter(job, len(items))
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answers = answer_items(model, tokenizer, items, on_batch=lambda n: reporter.step(steps=n))
    scores = score_by_kind(items, answers)
    return {"text": as_dict(scores), "note": f"text {overall(scores.values()).percent:.1f}%"}


def run_align(
    job: str, method: Method, data: Path, models: Path, folder: Path, steps: int, seed: int
) -> dict[str, Any]:
    """Runs the first stage; several methods may share it."""
    return train_and_report(job, align_recipe(method, data, models, folder, steps, seed))


def run_method(
    job: str, method: Method, align: str, data: Path, start: Path, folder: Path, steps: int,
    seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Runs the second stage and scores the saved checkpoint."""
    result = train_and_report(job, instruct_recipe(method, data, start, folder, steps, seed))
    begun = time.perf_counter()
    model = WingsForCausalLM.from_pretrained(folder)
    processor = WingsProcessor.from_pretrained(folder)
    groups = model.parameter_groups()
    trained = {name: sum(p.numel() for p in groups[name]) for name in method.rates}
    scores = score_tests(model, processor, data, TESTS)
    return {
        **result,
        "align": align,
        "rates": method.rates,
        "wings": method.wings,
        "trained": trained,
        "scores": scores,
        "scoring_seconds": time.perf_counter() - begun,
        "note": percentages(scores),
    }


def score_tests(
    model: WingsForCausalLM, processor: WingsProcessor, data: Path, tests: Sequence[str]
) -> dict[str, Any]:
    """Asks a model the questions of some tests; the scores of each."""
    scores = {}
    for test in tests:
        items = read_items(data / f"{test}_held_out.jsonl")
        scores[test] = as_dict(score_by_kind(items, answer_items(model, processor, items)))
    return scores


def percentages(scores: dict[str, Any]) -> str:
    """`text 97.9, pictures 72.5`."""
    return ", ".join(f"{test} {100 * s['right'] / s['total']:.1f}" for test, s in scores.items())


def answer_last_turns(folder: Path, conversations: list[list[dict]]) -> list[str]:
    """Loads a checkpoint as a user would and answers the last turn of every conversation."""
    model = WingsForCausalLM.from_pretrained(folder)
    processor = WingsProcessor.from_pretrained(folder)
    return answer_items(model, processor, [Item("all", tuple(c), "") for c in conversations])


def train_and_report(job: str, recipe: Recipe) -> dict[str, Any]:
    """Trains and reports every step."""
    reporter = Reporter(job, recipe.steps or 0)

    def watch(step: int, steps: int, metrics: dict[str, float]) -> None:
        reporter.step(f"loss {metrics['loss']:.2f}" if "loss" in metrics else "")

    begun = time.process_time()
    result = train(recipe, watch=watch)
    return {
        "steps": result.steps,
        "seconds": result.seconds,
        "cpu_seconds": time.process_time() - begun,
        "losses": result.losses,
        "note": f"loss {result.losses[-1]:.2f}",
    }


def as_dict(scores: dict[str, Accuracy]) -> dict[str, Any]:
    """Scores for results.json: all together and by kind."""
    kinds = {kind: asdict(accuracy) for kind, accuracy in scores.items()}
    return {**asdict(overall(scores.values())), "kinds": kinds}


def models_folder(folder: Path, from_nothing: bool) -> Path:
    """The folder of the language model and the vision tower that a quickstart starts from."""
    return folder / "seedling" if from_nothing else ASSETS


def make_schedule(
    methods: list[Method], folder: Path, seed: int, size: QuickstartSize, from_nothing: bool
) -> list[Job]:
    """All jobs, the longest first among those that may run at the same time."""
    data, models = folder / "data", models_folder(folder, from_nothing)

    def job(
        key: str, label: str, steps: int, run: Any, arguments: tuple, needs: tuple[str, ...] = ()
    ) -> Job:
        return Job(key, label, run, (key, *arguments), needs, steps)

    first: tuple[str, ...] = ()
    schedule: list[Job] = []
    if from_nothing:
        first = ("llm", "tower")
        llm = (models / "llm", data, seed, size.llm_steps)
        tower = (models / "tower", seed, size.tower_steps)
        schedule = [
            job("llm", "train a language model", size.llm_steps, make_llm, llm),
            job("tower", "train a vision tower", size.tower_steps, make_tower, tower),
        ]
    count, llm_and_data = size.amounts.held_out, (models / "llm", data)
    schedule.append(job("before", "ask the language model", count, score_llm, llm_and_data, first))
    aligned: list[tuple] = []  # first stages; methods with the same one share it
    second_stages: list[Job] = []
    for method in methods:
        first_stage = (method.first_stage, method.learner_rate)
        if first_stage not in aligned:
            aligned.append(first_stage)
            key, label = f"align-{len(aligned)}", f"stage 1: {method.first_stage_name}"
            align = (method, data, models, folder / key, size.align_steps, seed)
            schedule.append(job(key, label, size.align_steps, run_align, align, first))
        key, label = f"row-{method.key}", f"stage 2: {method.title}"
        start = f"align-{aligned.index(first_stage) + 1}"
        output = folder / "rows" / method.key
        instruct = (method, start, data, folder / start, output, size.instruct_steps, seed)
        second_stages.append(job(key, label, size.instruct_steps, run_method, instruct, (start,)))
    return schedule + second_stages
