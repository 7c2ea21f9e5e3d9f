"""The experiment's work, for worker processes of one thread: align, train and measure."""

import shutil
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.utils import logging

from wings.errors import WingsError
from wings.train.recipe import Recipe
from wings.train.run import TrainResult, train

from .measure import measure_checkpoint, measure_llm
from .methods import BY_KEY
from .recipes import align_recipe, instruct_recipe, rates_of
from .runs import Run
from .sizes import SENTENCES, Size


def begin() -> None:
    """What a worker does first: one thread, as two runs share the machine, and no bars."""
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def align(key: str, folder: Path, size: Size) -> float:
    """Stage 1 for all methods that begin with it, and its seconds; one that is finished is kept."""
    begin()
    return round(fit(align_recipe(key, folder, size)).seconds, 1)


def score_llm(folder: Path, sentences: int = SENTENCES) -> dict[str, Any]:
    """The untouched LLM's scores."""
    begin()
    return measure_llm(folder / "weights" / "llm", folder / "data", sentences)


def run_method(run: Run, folder: Path, size: Size) -> dict[str, Any]:
    """Stage 2 of one run, and the scores of the checkpoint, which is thrown away afterwards.

    Returns:
        `seconds`, `cpu_seconds` of the training, `losses`, `rates`, `scores`; or `failed`, what the
        training said when it gave up.
    """
    begin()
    method, output = BY_KEY[run.method], folder / "runs" / run.name
    shutil.rmtree(output, ignore_errors=True)
    recipe = instruct_recipe(method, run.rate, run.seed, run.steps, folder, output, size)
    rates = rates_of(method, run.rate)
    begun = time.process_time()
    try:
        result = fit(recipe)
    except WingsError as error:
        return {"rates": rates, "failed": str(error).replace(str(folder), "FOLDER")}
    cpu_seconds = time.process_time() - begun
    llm = folder / "weights" / "llm"
    scores = measure_checkpoint(output, llm, folder / "data", size.sentences)
    shutil.rmtree(output)
    return {
        "rates": rates,
        "seconds": round(result.seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "losses": [round(loss, 3) for loss in result.losses],
        "scores": scores,
    }


def fit(recipe: Recipe) -> TrainResult:
    """Trains quietly."""
    # Rows are some forty tokens long: the plain softmax is quicker than the fused kernel's
    # backward, which is made for long ones.
    with sdpa_kernel(SDPBackend.MATH):
        return train(recipe, watch=lambda step, steps, figures: None)
