"""Preflight: runs every later step of a training run once, on a few samples.

A run trains for hours before it saves, and its model is loaded only after that. The preflight finds
failures of these steps before the model's weights are read.
"""

import contextlib
import os
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from PIL import Image
from torch import Tensor

from wings.config import WingsConfig
from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.item_encoder import AUDIO
from wings.processing.processor import WingsProcessor
from wings.records.open_records import open_records
from wings.sense import IMAGE, Words
from wings.train.build import load_processor, trained_senses
from wings.train.recipe import Evaluate, Recipe
from wings.train.recipe_paths import folder_of, same_place
from wings.train.recipe_values import readable_values
from wings.train.run import quiet, train
from wings.train.small_model import TinyDataset, small_config, small_model, tiny_sample

from .distributed import first_alone, is_first_process
from .estimate.meta_model import ModelSpec
from .run_folder import RunFolder
from .signals import DistributedStop, Preempted
from .training_arguments import training_arguments

MESSAGE = "Checking every later step on a few samples ... "
PREFIX = "preflight-"
STEPS, NEW_TOKENS = 2, 4
# An item of each sense that a processor reads, for a conversation.
ITEMS: dict[str, dict[str, Any]] = {
    IMAGE: {"type": IMAGE, IMAGE: Image.new("RGB", (8, 8))},
    AUDIO: {"type": AUDIO, AUDIO: (np.zeros(8_000, np.float32), 16_000)},
}
# Relative to the largest logit: rounding differs between kernels, a lost key changes far more.
TOLERANCE = 0.02


class PreflightError(RuntimeError):
    """A step failed in a library; the library's error is the cause."""


@contextlib.contextmanager
def checking(step: str) -> Iterator[None]:
    """Names `step` in every error of the block.

    Raises:
        WingsError: the block raised one, or an `OSError`.
        PreflightError: the block raised another error, which is the cause.
    """
    try:
        yield
    except (DistributedStop, PreflightError):
        raise
    except (WingsError, OSError) as error:
        raise WingsError(f"preflight, {step}: {error}") from error
    except Exception as error:
        raise PreflightError(f"preflight, {step}: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Restores the random state of Python, numpy and torch after the block."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextlib.contextmanager
def announced(is_printing: bool = True) -> Iterator[None]:
    """Prints one line around the block, with the seconds that it took."""
    begin, end = time.perf_counter(), "stopped."
    if is_printing:
        print(MESSAGE, end="", flush=True)
    try:
        yield
        end = f"done in {time.perf_counter() - begin:.0f} s."
    finally:
        if is_printing:
            print(end, flush=True)


@contextlib.contextmanager
def small_run(folder: Path) -> Iterator[Path]:
    """Runs the block as a small trial: one printed line, no progress bars, nothing left behind.

    Args:
        folder: an existing folder, for the temporary folder of the trial.

    Yields:
        the temporary folder.
    """
    with (
        announced(),
        random_state_kept(),
        quiet(),
        TemporaryDirectory(prefix=PREFIX, dir=folder) as run,
    ):
        yield Path(run)


def preflight(recipe: Recipe, file: Path | None = None) -> None:
    """Check the later steps of a run before it begins.

    A small model with the same classes and options is saved, loaded and compared by logits. It
    generates with and without a cache. It trains two steps, resumes from a checkpoint, and the
    finished model is loaded. The processor is saved, loaded and writes the same conversation. All
    files go to the output folder and are removed. A finished run is not checked. Under torchrun
    every process calls this.

    Args:
        recipe: recipe of the run.
        file: file of the recipe. If recipes next to it start from its output, what they lack is
            printed as a warning.

    Raises:
        WingsError, PreflightError: a step that would fail later.
    """
    folder = RunFolder(recipe.output)
    folder.validate(recipe)
    if folder.finished and folder.is_of(recipe):
        return
    is_first = is_first_process()
    scratch = folder.unfinished("preflight")
    try:
        with announced(is_first), random_state_kept(), quiet():
            _check(recipe, folder, scratch, is_first)
    except Preempted:
        raise Preempted("Stopped before the first step; restart with the same command.") from None
    finally:
        if folder.is_held:
            shutil.rmtree(scratch, ignore_errors=True)
            # A run that is about to begin claims it again.
            folder.close()
    # No process begins the run before its folder is as it was.
    PartialState().wait_for_everyone()
    if is_first and file is not None:
        for sentence in unready_stages(recipe, file):
            print(sentence, flush=True)


def _check(recipe: Recipe, folder: RunFolder, scratch: Path, is_first: bool) -> None:
    processor = load_processor(recipe)
    config = small_config(ModelSpec.of(recipe).config)
    few = few_steps(recipe, scratch / "run")
    if config is not None:
        # The small model has no start whose other senses stay frozen.
        few = replace(few, trained_senses=trained_senses(recipe, config.senses))
    # Joins the process group, as in the run.
    training_arguments(few, scratch / "run", STEPS)
    with first_alone(is_first):
        if is_first:
            folder.lock()
            shutil.rmtree(scratch, ignore_errors=True)
            check_processor(processor, scratch / "processor")
            if config is not None:
                check_checkpoint(config, scratch / "model")
    if config is not None:
        check_training(few, config, processor, scratch, is_first)
    elif is_first:
        # The sizes of this family depend on each other; the real model may be fine.
        print("no small model of this family can be built; ", end="")


def few_steps(recipe: Recipe, output: Path) -> Recipe:
    """The recipe with two steps of one sample per process, and checkpoints."""
    return replace(
        recipe, output=str(output), model=None, start=None, steps=STEPS, save_every=1,
        batch_size=int(os.environ.get("WORLD_SIZE", "1")), device_batch_size=1, batching="pad",
        workers=0, evaluate=Evaluate(text_after_image=0), trackers=[], log_every=1,
        feature_cache=None,
    )  # fmt: skip


def check_processor(processor: WingsProcessor, folder: Path) -> None:
    """Save a processor, load it, and compare the encodings of a conversation.

    Raises:
        WingsError, PreflightError: a step failed, or the encodings differ.
    """
    with checking("save the processor"):
        processor.save_pretrained(folder)
    with checking("load the processor"):
        loaded = WingsProcessor.from_pretrained(folder)
    with checking("write a conversation with the chat template"):
        parts = [ITEMS[name] for name in processor.senses if name in ITEMS]
        parts.append({"type": "text", "text": "?"})
        messages = [{"role": "user", "content": parts}]
        before, after = (
            one.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
            for one in (processor, loaded)
        )
        for name in before:
            if not torch.equal(before[name], after[name]):
                raise WingsError(
                    f"{name} of a conversation change when the processor is saved and loaded;"
                    " check the tokenizer and its chat template."
                )


@torch.no_grad()
def check_checkpoint(config: WingsConfig, folder: Path) -> None:
    """Save and load a small model, compare logits, generate with and without a cache.

    Raises:
        WingsError, PreflightError: a step failed, or logits differ.
    """
    model = small_model(config)
    with checking("save a model"):
        model.save_pretrained(folder)
    with checking("load a model"):
        loaded = WingsForCausalLM.from_pretrained(folder, dtype=model.dtype)
    named = " and ".join(Words.of(sense).one for sense in config.senses)
    for with_items, kind in ((False, "text"), (True, named)):
        sample = tiny_sample(config, with_items)
        batch: dict[str, Any] = {**sample, "input_ids": sample["input_ids"][None]}
        del batch["labels"]
        with checking(f"compare logits of the loaded model, {kind}"):
            if not _close(loaded(**batch).logits, model(**batch).logits):
                raise WingsError("logits of the loaded model differ from those of the saved one.")
        with checking(f"generate with a cache, {kind}"):
            output = loaded.generate(
                **batch, attention_mask=torch.ones_like(batch["input_ids"]), do_sample=False,
                max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, use_cache=True,
                return_dict_in_generate=True, output_logits=True,
            )  # fmt: skip
        with checking(f"generate without a cache, {kind}"):
            whole = {**batch, "input_ids": output.sequences[:, :-1]}
            logits = loaded(**whole, use_cache=False).logits[:, -NEW_TOKENS:]
            if not _close(torch.stack(output.logits, 1), logits):
                raise WingsError("logits with a cache differ from those of a pass without one.")


def _close(actual: Tensor, expected: Tensor) -> bool:
    return bool((actual - expected).abs().max() <= TOLERANCE * expected.abs().max())


def check_training(
    few: Recipe, config: WingsConfig, processor: WingsProcessor, scratch: Path, is_first: bool
) -> None:
    """Train a small model, resume from its checkpoint, load the result.

    Args:
        few: a recipe from `few_steps`.
        config: configuration of the small model.
        processor: saved with it.
        scratch: a temporary folder, the same on every process.
        is_first: True on the first process.

    Raises:
        WingsError, PreflightError: a step failed.
    """
    data = TinyDataset(config, needs_kl_mask=few.kl_to_base is not None)

    def run(recipe: Recipe) -> Path:
        return train(recipe, small_model(config), processor, lambda *_: None, data).folder

    with checking("train and save checkpoints"):
        finished = run(few)
    again = replace(few, output=str(scratch / "resumed"))
    with checking("resume from a checkpoint"):
        if is_first:
            resumed = RunFolder(again.output)
            resumed.owned.claim()
            resumed.claim(again, {})
            resumed.owned.record("checkpoint-1")
            (finished / "checkpoint-1").rename(resumed.checkpoint(1))
        PartialState().wait_for_everyone()
        run(again)
    with first_alone(is_first), checking("load the finished model"):
        if is_first:
            WingsForCausalLM.from_pretrained(finished)
            # Without the comparison with config.json: the small model has image tokens of its own.
            super(WingsProcessor, WingsProcessor).from_pretrained(finished)


def unready_stages(recipe: Recipe, file: Path) -> list[str]:
    """A sentence per recipe next to `file` that starts from its output and cannot run yet."""
    sentences = []
    outputs = {recipe.output, str(readable_values(Recipe, file).get("output", recipe.output))}
    for path in sorted(file.parent.glob("*.yaml")):
        start = readable_values(Recipe, path).get("start")
        places = (str(start), os.path.join(folder_of(path), str(start))) if start else ()
        if path == file or not any(same_place(one, out) for one in places for out in outputs):
            continue
        try:
            later = Recipe.from_yaml(path)
            for source in (*later.data, *later.evaluate.data):
                open_records(source)
        except WingsError as error:
            sentences.append(f"{path.stem}, which starts from this run, cannot run yet: {error}")
    return sentences
