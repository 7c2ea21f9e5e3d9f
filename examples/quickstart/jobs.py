"""The quickstart's work: functions of paths and numbers for worker processes, each giving a dict.

Models this small do not keep two cores busy from one process, so every job runs on one thread, two
jobs at a time.
"""

import time
from dataclasses import asdict
from multiprocessing import Queue
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from wings.eval.generate import answer_items
from wings.eval.items import Item, read_items
from wings.eval.scoring.accuracy import Accuracy, overall, score_by_kind
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor
from wings.train.recipe import Recipe
from wings.train.run import train

from .methods import Row, align_recipe, instruct_recipe
from .tiny_llm import train_seedling
from .tiny_tower import train_tower

TESTS = ("text", "mixed", "pictures")
SECONDS_BETWEEN_REPORTS = 0.2


class Reporter:
    """Sends (job, done, total, note) to the process that draws the bars, a few times a second."""

    queue: "Queue | None" = None

    def __init__(self, job: str, total: int) -> None:
        self.job, self.total, self.done, self.last = job, total, 0, 0.0

    def step(self, note: str = "", steps: int = 1) -> None:
        """So many steps more."""
        self.done += steps
        now = time.monotonic()
        if self.queue and (now - self.last > SECONDS_BETWEEN_REPORTS or self.done == self.total):
            self.queue.put((self.job, self.done, self.total, note))
            self.last = now


def begin(queue: "Queue | None") -> None:
    """What a worker process does once: one thread, and no bars or advice of other libraries."""
    Reporter.queue = queue
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def make_tower(job: str, folder: Path, seed: int, steps: int) -> dict[str, Any]:
    """Trains the vision tower."""
    reporter = Reporter(job, steps)
    begun = time.perf_counter()
    right = 100 * train_tower(folder, seed, steps, lambda loss: reporter.step(f"loss {loss:.2f}"))
    note = f"names {right:.1f}% of the patches"
    return {"patches_named": right, "seconds": time.perf_counter() - begun, "note": note}


def make_llm(job: str, folder: Path, data: Path, seed: int, steps: int) -> dict[str, Any]:
    """Trains the language model on the text."""
    reporter = Reporter(job, steps)
    begun = time.perf_counter()
    text = data / "text.jsonl"
    parameters = train_seedling(
        folder, text, seed, steps, lambda loss: reporter.step(f"loss {loss:.2f}")
    )
    note = f"{parameters:,} parameters"
    return {"parameters": parameters, "seconds": time.perf_counter() - begun, "note": note}


def score_llm(job: str, folder: Path, data: Path) -> dict[str, Any]:
    """Scores the language model, as it is before it sees a picture, on the held-out text."""
    items = read_items(data / "text_held_out.jsonl")
    reporter = Reporter(job, len(items))
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    said = answer_items(model, tokenizer, items, on_batch=lambda n: reporter.step(steps=n))
    scores = score_by_kind(items, said)
    return {"text": described(scores), "note": f"text {overall(scores.values()).percent:.1f}%"}


def run_align(
    job: str, row: Row, data: Path, models: Path, folder: Path, steps: int, seed: int
) -> dict[str, Any]:
    """The first stage; several rows may share it."""
    return watched(job, align_recipe(row, data, models, folder, steps, seed))


def run_row(
    job: str, row: Row, align: str, data: Path, start: Path, folder: Path, steps: int, seed: int
) -> dict[str, Any]:
    """The second stage, and the scores of what it left on disk."""
    result = watched(job, instruct_recipe(row, data, start, folder, steps, seed))
    begun = time.perf_counter()
    model = WingsForCausalLM.from_pretrained(folder)
    processor = WingsProcessor.from_pretrained(folder)
    groups = model.parameter_groups()
    trained = {name: sum(p.numel() for p in groups[name]) for name in row.rates}
    scores = {}
    for test in TESTS:
        items = read_items(data / f"{test}_held_out.jsonl")
        scores[test] = described(score_by_kind(items, answer_items(model, processor, items)))
    percent = {test: 100 * s["right"] / s["total"] for test, s in scores.items()}
    return {
        **result,
        "align": align,
        "rates": row.rates,
        "wings": row.wings,
        "trained": trained,
        "scores": scores,
        "scoring_seconds": time.perf_counter() - begun,
        "note": ", ".join(f"{test} {value:.1f}" for test, value in percent.items()),
    }


def converse(folder: Path, conversations: list[list[dict]]) -> list[str]:
    """Loads a checkpoint as a user would and answers the last turn of every conversation."""
    model = WingsForCausalLM.from_pretrained(folder)
    processor = WingsProcessor.from_pretrained(folder)
    return answer_items(model, processor, [Item("all", tuple(c), "") for c in conversations])


def watched(job: str, recipe: Recipe) -> dict[str, Any]:
    """A training run with its steps reported."""
    reporter = Reporter(job, recipe.steps or 0)

    def watch(step: int, steps: int, figures: dict[str, float]) -> None:
        reporter.step(f"loss {figures['loss']:.2f}" if "loss" in figures else "")

    begun = time.process_time()
    result = train(recipe, watch=watch)
    return {
        "steps": result.steps,
        "seconds": result.seconds,
        "cpu_seconds": time.process_time() - begun,
        "losses": result.losses,
        "note": f"loss {result.losses[-1]:.2f}",
    }


def described(scores: dict[str, Accuracy]) -> dict[str, Any]:
    """Scores for results.json: all together and by kind."""
    return {
        **asdict(overall(scores.values())),
        "kinds": {kind: asdict(s) for kind, s in scores.items()},
    }
