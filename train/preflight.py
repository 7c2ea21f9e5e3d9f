"""Preflight: every step that a run needs later, done first on a handful of samples.

A run trains for hours before it saves, and its model is loaded and generates only after that. What
cannot work there is found here, before the model's weights are read.
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
import yaml
from accelerate import PartialState
from accelerate.utils import gather_object
from PIL import Image
from torch import Tensor

from wings.config import WingsConfig
from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor
from wings.train.build import load_processor
from wings.train.recipe import Recipe
from wings.train.run import quiet, train
from wings.train.small_model import TinyDataset, small_config, small_model, tiny_sample

from .data.readers.open_records import open_records
from .estimate.meta_model import ModelSpec
from .run_folder import RECIPE, RunFolder
from .signals import DistributedStop, Preempted
from .training_arguments import training_arguments

MESSAGE = "Checking every later step on a handful of samples ... "
PREFIX = "preflight-"
STEPS, NEW_TOKENS = 2, 4
# Of the largest logit: kernels and caches round differently, a lost key changes far more.
TOLERANCE = 0.02


class PreflightError(RuntimeError):
    """A step that fails in a library: its own error is the cause, with the whole traceback."""


@contextlib.contextmanager
def checking(step: str) -> Iterator[None]:
    """Names `step` in every error of the block.

    Raises:
        WingsError: the block raised one, or an `OSError`; the sentence begins with the step.
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
    """Puts the random state of Python, numpy and torch back to what it was before the block."""
    own, numpy_state = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(own)
        np.random.set_state(numpy_state)


@contextlib.contextmanager
def announced(speaks: bool = True) -> Iterator[None]:
    """Prints one line around the block: what is done, and the seconds that it took."""
    begin = time.perf_counter()
    end = "stopped.\n"
    if speaks:
        print(MESSAGE, end="", flush=True)
    try:
        yield
        end = f"done in {time.perf_counter() - begin:.0f} s.\n"
    finally:
        if speaks:
            print(end, end="", flush=True)


@contextlib.contextmanager
def small_run(folder: Path) -> Iterator[Path]:
    """Around a run of everything in small: one printed line, no bars, and no trace of it.

    Args:
        folder: exists; the run gets a folder in it, which is removed.

    Yields:
        the run's folder.
    """
    with (
        announced(),
        random_state_kept(),
        quiet(),
        TemporaryDirectory(prefix=PREFIX, dir=folder) as run,
    ):
        yield Path(run)


def preflight(recipe: Recipe, file: Path | None = None) -> None:
    """Prove what the run of a recipe needs at its end, before it begins.

    With the model's own classes and options in a small size: a checkpoint is saved, loaded and
    gives the same logits; generation with a cache agrees with a pass without one; two steps train,
    a checkpoint is resumed from, and the finished model is loaded. The processor is saved, loaded
    and writes the same conversation. Everything is written to the output folder and removed.
    A finished run needs nothing of it. Under torchrun every process calls this.

    Args:
        recipe: of the run.
        file: where the recipe stands. Recipes beside it that start from its output are read, and
            what they lack is printed; it may still come while this stage trains.

    Raises:
        WingsError, PreflightError: what would fail later, with the step named.
    """
    folder = RunFolder(recipe.output)
    folder.validate(recipe)
    if folder.finished:
        return
    is_first = os.environ.get("RANK", "0") == "0"
    was_there = folder.path.exists()
    scratch = folder.unfinished("preflight")
    try:
        with announced(is_first), random_state_kept(), quiet():
            _check(recipe, folder, scratch, is_first)
    except Preempted:
        raise Preempted("stopped before the first step; the same command begins it.") from None
    finally:
        if is_first:
            shutil.rmtree(scratch, ignore_errors=True)
            if not was_there:
                # The run itself makes it again.
                with contextlib.suppress(OSError):
                    folder.path.rmdir()
    if is_first and file is not None:
        for sentence in unready_stages(recipe, file):
            print(sentence, flush=True)


def _check(recipe: Recipe, folder: RunFolder, scratch: Path, is_first: bool) -> None:
    processor = load_processor(recipe)
    config = small_config(ModelSpec.of(recipe).config)
    few = few_steps(recipe, scratch / "run")
    # Joins the process group, as the run will.
    training_arguments(few, scratch / "run", STEPS)
    with first_alone(is_first):
        if is_first:
            folder.make()
            shutil.rmtree(scratch, ignore_errors=True)
            check_processor(processor, scratch / "processor")
            if config is not None:
                check_checkpoint(config, scratch / "model")
    if config is not None:
        check_training(few, config, processor, scratch, is_first)
    elif is_first:
        # A family with sizes that depend on one another; the real model may be fine.
        print("no small model of this family can be made; ", end="")


@contextlib.contextmanager
def first_alone(is_first: bool) -> Iterator[None]:
    """Around work of the first process: the others wait, and end with it where it fails.

    Raises:
        DistributedStop: on every other process, what the first one raised.
    """
    failed: Exception | None = None
    try:
        yield
    except Exception as error:
        failed = error
    sentences = gather_object([None if failed is None else str(failed)])
    if failed is not None:
        raise failed
    if not is_first and sentences[0] is not None:
        raise DistributedStop(sentences[0])


def few_steps(recipe: Recipe, output: Path) -> Recipe:
    """The recipe of a small run: the same keys, two steps of a sample a process, checkpoints."""
    return replace(
        recipe, output=str(output), model=None, start=None, steps=STEPS, save_every=1,
        batch_size=int(os.environ.get("WORLD_SIZE", "1")), device_batch_size=1, batching="pad",
        workers=0, evaluate=None, trackers=[], log_every=1,
    )  # fmt: skip


def check_processor(processor: WingsProcessor, folder: Path) -> None:
    """Save a processor, load it again, and compare what both make of a conversation.

    Raises:
        WingsError, PreflightError: a step failed, or they differ.
    """
    with checking("save the processor"):
        processor.save_pretrained(folder)
    with checking("load the processor"):
        loaded = WingsProcessor.from_pretrained(folder)
    with checking("write a conversation with the chat template"):
        parts = [
            {"type": "image", "image": Image.new("RGB", (8, 8))},
            {"type": "text", "text": "?"},
        ]
        messages = [{"role": "user", "content": parts}]
        ours: Any = processor.apply_chat_template(messages)
        theirs: Any = loaded.apply_chat_template(messages)
        for name in ("input_ids", "attention_mask", "pixel_values"):
            if not torch.equal(ours[name], theirs[name]):
                raise WingsError(
                    f"{name} of a conversation differ once the processor is saved and loaded;"
                    " check the tokenizer and its chat template."
                )


@torch.no_grad()
def check_checkpoint(config: WingsConfig, folder: Path) -> None:
    """Save a small model, load it again, compare logits, generate with a cache and without.

    Args:
        config: of the model.
        folder: gets the checkpoint.

    Raises:
        WingsError, PreflightError: a step failed, or logits differ.
    """
    model = small_model(config)
    with checking("save a model"):
        model.save_pretrained(folder)
    with checking("load a model"):
        loaded = WingsForCausalLM.from_pretrained(folder, dtype=model.dtype)
    for with_picture, kind in ((False, "text"), (True, "a picture")):
        sample = tiny_sample(config, with_picture)
        batch: dict[str, Any] = {**sample, "input_ids": sample["input_ids"][None]}
        del batch["labels"]
        with checking(f"compare logits of the loaded model, {kind}"):
            if not _close(loaded(**batch).logits, model(**batch).logits):
                raise WingsError("the loaded model's logits are not those of the saved one.")
        with checking(f"generate with a cache, {kind}"):
            found = loaded.generate(
                **batch, attention_mask=torch.ones_like(batch["input_ids"]), do_sample=False,
                max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, use_cache=True,
                return_dict_in_generate=True, output_logits=True,
            )  # fmt: skip
        with checking(f"generate without a cache, {kind}"):
            whole = {**batch, "input_ids": found.sequences[:, :-1]}
            logits = loaded(**whole, use_cache=False).logits[:, -NEW_TOKENS:]
            if not _close(torch.stack(found.logits, 1), logits):
                raise WingsError("logits with a cache are not those of a pass without one.")


def _close(ours: Tensor, theirs: Tensor) -> bool:
    return bool((ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max())


def check_training(
    few: Recipe, config: WingsConfig, processor: WingsProcessor, scratch: Path, is_first: bool
) -> None:
    """Train a small model, resume from its checkpoint, load the result.

    Args:
        few: as `few_steps` makes it.
        config: of the small model.
        processor: is saved with it.
        scratch: a folder of this run alone, the same on every process.
        is_first: whether this process is the first.

    Raises:
        WingsError, PreflightError: a step failed.
    """
    data = TinyDataset(config, needs_kl_mask=few.kl_to_base is not None)

    def run(of: Recipe) -> Path:
        return train(of, small_model(config), processor, _silent, data).folder

    with checking("train and save checkpoints"):
        finished = run(few)
    again = replace(few, output=str(scratch / "resumed"))
    with checking("resume from a checkpoint"):
        if is_first:
            resumed = RunFolder(again.output)
            resumed.make()
            resumed.write(RECIPE, again.to_yaml())
            (finished / "checkpoint-1").rename(resumed.checkpoint(1))
        PartialState().wait_for_everyone()
        run(again)
    with first_alone(is_first), checking("load the finished model"):
        if is_first:
            WingsForCausalLM.from_pretrained(finished)
            WingsProcessor.from_pretrained(finished)


def _silent(step: int, steps: int, metrics: dict[str, float]) -> None:
    """Watches a run and prints nothing."""


def unready_stages(recipe: Recipe, file: Path) -> list[str]:
    """A sentence for each recipe beside `file` that goes on from its output and cannot run yet."""
    output = _values(file).get("output", recipe.output)
    found = []
    for path in sorted(file.parent.glob("*.yaml")):
        if path == file or _values(path).get("start") not in (output, recipe.output):
            continue
        try:
            later = Recipe.from_yaml(path)
            held_out = later.evaluate.data if later.evaluate else []
            for source in (*later.data, *held_out):
                open_records(source)
        except WingsError as error:
            found.append(f"{path.stem}, which goes on from here, cannot run yet: {error}")
    return found


def _values(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return {}
    return values if isinstance(values, dict) else {}
