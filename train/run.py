"""One training run from a recipe: build, plan, train, save; for scripts and for the command."""

import contextlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from accelerate.utils import gather_object
from transformers import PrinterCallback, set_seed
from transformers.utils import logging

from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor
from wings.train.build import load_model, load_processor
from wings.train.lora import merge_adapters
from wings.train.recipe import Recipe

from .data.bucketing import Batching
from .data.collator import Collator, Packer
from .data.dataset import Conversations
from .data.lengths import Lengths
from .data.sampler import Order
from .data.workers import LostWorker, watching_workers
from .distributed import is_launched, refuse_other_checkpoints
from .metrics.evaluate import Evaluation, evaluations, renamed
from .metrics.progress import Progress, Watch
from .metrics.trackers import make_trackers
from .param_groups import prepare
from .run_folder import RESULT, RunFolder, step_of
from .signals import Stopped
from .trainer import WingsTrainer
from .training_arguments import training_arguments
from .validation import refuse_idle_kl_to_base


@dataclass
class TrainResult:
    """What a run came to.

    Attributes:
        folder: holds the model and the processor; `WingsForCausalLM.from_pretrained` takes it.
        steps: optimiser steps of the whole run.
        seconds: wall time of this process's part of it.
        history: figures of every logged step: `step`, `loss`, `grad_norm`, `rate/GROUP`, `skipped`,
            `tokens_per_second`, `padding`, `image_tokens` and, where there are such, `mfu`,
            `memory_gib`, `kl_to_base` and `gate/LEARNER/BLOCK`.
        evaluations: of every evaluation `step`, `eval/NAME/loss` and `eval/NAME/rise`.
        stopped: why the run ended before its last step, or None.
        skipped: a sentence for every record that was passed over.
    """

    folder: Path
    steps: int
    seconds: float
    history: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    stopped: str | None = None
    skipped: list[str] = field(default_factory=list)

    @property
    def losses(self) -> list[float]:
        """The loss of every logged step (a mean over the steps since the last one)."""
        return [entry["loss"] for entry in self.history]


class TrainingData(Protocol):
    """Encoded samples by number, and the order of their epochs: see `Conversations`."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> dict[str, Any]: ...

    def order(self, batch_size: int, seed: int) -> Order:
        """The samples of every epoch."""


def train(
    recipe: Recipe,
    model: WingsForCausalLM | None = None,
    processor: WingsProcessor | None = None,
    watch: Watch | None = None,
    data: TrainingData | None = None,
) -> TrainResult:
    """Run a recipe to its end; go on with one that was interrupted, keep one that is finished.

    Args:
        recipe: what to do.
        model, processor: trained in place of what the recipe names, both or neither.
        watch: called on the first process after every step with (step, steps, newest figures);
            without it the plan, a bar and the skipped records are shown.
        data: samples to train on in place of the recipe's; they are padded, one in a row.

    Raises:
        WingsError: anything in the recipe, the data or the folder that cannot be used.
        Stopped: SIGTERM or SIGUSR1 came; the same call goes on from the checkpoint that it left.
    """
    if (model is None) != (processor is None):
        raise WingsError("train() takes a model and its processor together, or neither.")
    folder = RunFolder(recipe.output)
    folder.check(recipe)
    if folder.finished:
        if model is not None:
            raise WingsError(
                f"output: {folder.path} holds this run, finished; remove it to repeat."
            )
        return _read(folder)
    try:
        with quiet(), watching_workers():
            return _train(recipe, folder, model, processor, watch, data)
    except LostWorker as error:
        raise WingsError(f"{error}; {folder.saved}.") from error


def _train(
    recipe: Recipe,
    folder: RunFolder,
    model: WingsForCausalLM | None,
    processor: WingsProcessor | None,
    watch: Watch | None,
    data: TrainingData | None,
) -> TrainResult:
    set_seed(recipe.seed)
    # What can be wrong is looked at before the model is loaded, which takes minutes at real sizes.
    refuse_other_checkpoints(recipe, folder.last_checkpoint())
    processor = load_processor(recipe) if processor is None else processor
    records = Conversations.of(recipe, processor) if data is None else None
    samples: TrainingData | None = data if records is None else records
    assert samples is not None
    plain = samples.order(recipe.batch_size, recipe.seed)
    order: Order | Batching = plain
    steps = recipe.steps or math.ceil(recipe.epochs * len(order) / recipe.batch_size)
    collate: Collator | Packer = Collator(processor.tokenizer.pad_token_id)
    pad = collate
    if records is not None and recipe.batching != "pad":
        order = Batching(plain, recipe.batching, Lengths(records, processor, recipe.max_length))
    if records is not None and recipe.batching == "pack":
        collate = Packer(processor.tokenizer.pad_token_id, recipe.max_length)
    arguments = training_arguments(recipe, folder.path, steps)
    evaluation = Evaluation(recipe, processor, pad) if recipe.evaluate else None
    for held_out in evaluation.sets.values() if evaluation else ():
        # The last evaluation needs it as the first does, and a missing folder is seen at once.
        _encode_first(held_out)
    if records is not None:
        _encode_first(records)
    trackers = make_trackers(recipe.trackers, recipe.to_yaml())
    folder.make()
    talks = watch is None and arguments.process_index == 0
    if talks and recipe.trackers is None and not trackers:
        print(f"tensorboard is not installed: figures go to {RESULT} alone", flush=True)
    if talks and recipe.parallel != "ddp" and not is_launched():
        print(f"parallel: {recipe.parallel} has nothing to share out: one process, no torchrun")
    if talks and model is None:
        print(f"loading {recipe.start or recipe.model}", flush=True)
    model = load_model(recipe) if model is None else model
    refuse_idle_kl_to_base(recipe, model.config.learners, model.config.text_guard)
    plan = prepare(model, recipe)
    trainer = WingsTrainer(
        plan=plan,
        order=order,
        folder=folder,
        save_total_limit=recipe.save_total_limit,
        evaluation=evaluation,
        kl_to_base=recipe.kl_to_base.weight if recipe.kl_to_base else None,
        model=model,
        args=arguments,
        train_dataset=samples,
        data_collator=collate,
        processing_class=processor,
        callbacks=[Progress(recipe.stage, watch), *trackers],
    )
    trainer.remove_callback(PrinterCallback)
    if talks:
        print(plan, flush=True)
    if trainer.is_world_process_zero():
        folder.claim(recipe)
    trainer.accelerator.wait_for_everyone()
    begin = time.perf_counter()
    with trainer.halt.listening():
        _fit(trainer, folder, steps)
        state = trainer.state
        result = TrainResult(folder.path, state.global_step, time.perf_counter() - begin)
        result.history = [entry for entry in state.log_history if "loss" in entry]
        result.evaluations = [renamed(entry) for entry in evaluations(state.log_history)]
        result.stopped = trainer.stopped
        result.skipped = _all_skipped(trainer)
        if talks and result.stopped:
            print(f"stopped early: {result.stopped}", flush=True)
        if talks and result.skipped:
            _report(result.skipped)
        model.eval()
        if recipe.lora is not None:
            merge_adapters(model)
        _finish(trainer, folder, result)
    return result


def _encode_first(data: Conversations) -> None:
    """The first record of every source: one of little weight may come up after hours only."""
    for start, records in zip(data.starts, data.records, strict=False):
        # A stream is read by the workers alone.
        if records.window is None:
            data[start]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' own bars; `Trainer` sets verbosity process-wide, here it is reset."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _fit(trainer: WingsTrainer, folder: RunFolder, steps: int) -> None:
    last = folder.last_checkpoint()
    if last is not None and (step_of(last) >= steps or trainer.ends_at(last)):
        # Killed while the final model was written: `Trainer` would take one step too many.
        trainer.load_finished(last)
    else:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    done = trainer.state.global_step
    if done < steps and trainer.stopped is None:
        raise Stopped(
            f"stopped by {trainer.halt.cause} after step {done} of {steps}, which is saved whole in"
            f" {folder.checkpoint(done)}; the same command goes on from there."
        )


def _finish(trainer: WingsTrainer, folder: RunFolder, result: TrainResult) -> None:
    draft = folder.unfinished("model")
    with folder.writing("the final model"):
        trainer.save_whole(draft)
        if trainer.is_world_process_zero():
            folder.place(draft)
            folder.write(RESULT, json.dumps({**asdict(result), "folder": None}, indent=1))
        trainer.accelerator.wait_for_everyone()


def _all_skipped(trainer: WingsTrainer) -> list[str]:
    entries = dict(gather_object(list(trainer.skipped.items())))
    held_out = {} if trainer.evaluation is None else trainer.evaluation.skipped
    others = dict(gather_object(list(held_out.items())))
    return [found[number] for found in (entries, others) for number in sorted(found)]


def _report(skipped: list[str], shown: int = 5) -> None:
    print(f"{len(skipped):,} records were skipped:")
    for sentence in skipped[:shown]:
        print(f"  {sentence}")
    if len(skipped) > shown:
        print(f"  and {len(skipped) - shown:,} more, all in {RESULT}")


def _read(folder: RunFolder) -> TrainResult:
    return TrainResult(**{**folder.read_result(), "folder": folder.path})
