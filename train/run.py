"""Runs a recipe: build, plan, train, save."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from transformers import PrinterCallback, TrainerCallback, set_seed
from transformers.utils import logging

from wings.config import WingsConfig
from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.image_token import validate_same_images
from wings.processing.processor import WingsProcessor
from wings.processing.turn_end import settle_turn_end
from wings.sense import Words
from wings.train.build import (
    is_llm_trained,
    load_model,
    load_processor,
    start_options,
    trained_senses,
    validate_start,
)
from wings.train.data.after_item import any_of_sense
from wings.train.lora import merge_adapters
from wings.train.recipe import Recipe, validate_kl_to_base, why_text_is_kept
from wings.upstream.trainer import state_of
from wings.upstream.versions import recorded_versions

from .best import BestEvaluation, validate_best_set
from .checkpoint_choice import newest_whole_checkpoint
from .data.dataset import ConversationDataset
from .data.identity import Identity, identities, validate_unchanged
from .data.run_data import RunData, TrainingData
from .data.workers import LostWorker, reporting_lost_workers
from .distributed import first_alone, is_first_process, is_launched, validate_checkpoint_kind
from .feature_cache import cached_features, describe_caches, make_folder
from .finite import validate_finite_start
from .metrics.answers import FixedQuestions
from .metrics.evaluate import evaluations, held_out_evaluation, renamed
from .metrics.progress import Progress, Watch
from .metrics.trackers import EventFiles, make_trackers
from .param_groups import prepare_groups
from .result import TrainResult, report_skipped, whole_result
from .run_folder import RESULT, RunFolder, step_of
from .run_length import describe_resume, steps_of, validate_length
from .signals import Preempted
from .trainer import WingsTrainer
from .training_arguments import training_arguments


def train(
    recipe: Recipe,
    model: WingsForCausalLM | None = None,
    processor: WingsProcessor | None = None,
    watch: Watch | None = None,
    data: TrainingData | None = None,
) -> TrainResult:
    """Run a recipe to its end; resume an interrupted run, return a finished one.

    A run goes on from its last checkpoint if the recipe has more steps or epochs than it had.

    Args:
        recipe: the recipe.
        model, processor: used instead of those of the recipe; both or neither.
        watch: called on the first process after every step with (step, steps, latest metrics);
            without it the plan, a progress bar and the skipped records are printed.
        data: samples to train on instead of the recipe's, padded, one per row.

    Raises:
        WingsError: an unusable recipe, record or folder.
        Preempted: stopped by SIGTERM or SIGUSR1; the same call resumes from its checkpoint.
    """
    if (model is None) != (processor is None):
        raise WingsError("train() needs a model and its processor together, or neither.")
    # The preflight has a small model with data of its own.
    if model is not None and data is None:
        validate_same_images(model.config.to_dict(), processor)
    folder = RunFolder(recipe.output)
    folder.validate(recipe)
    result = whole_result(folder) if folder.has_result and folder.is_of(recipe) else None
    if result is not None:
        if model is not None:
            raise WingsError(
                f"output: {folder.path} already contains a finished run; delete it to rerun."
            )
        if watch is None and is_first_process():
            print(
                f"{folder.path} already contains this run, finished after {result.steps:,} steps;"
                " nothing was trained; with more steps it goes on."
            )
        return result
    if recipe.feature_cache is not None:
        make_folder(recipe.feature_cache)
    if recipe.start:
        validate_start(recipe.start)
    if recipe.start and model is None:
        # Before any data is read.
        start_options(recipe)
    try:
        with quiet(), reporting_lost_workers(), contextlib.closing(folder):
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
    # Everything is validated before the model is loaded, which takes minutes at real sizes.
    processor = load_processor(recipe) if processor is None else processor
    used = RunData.of(recipe, processor, data)
    steps = steps_of(recipe, used.sampler)
    evaluation = held_out_evaluation(recipe, processor, used.pad, used.records)
    arguments = training_arguments(recipe, folder.path, steps, evaluation is not None)
    validate_best_set(recipe.evaluate, evaluation.sets if evaluation else ())
    held_out = evaluation.sets.values() if evaluation else ()
    for records in (*held_out, used.records):
        if isinstance(records, ConversationDataset):
            # Finds a missing folder before training.
            _encode_first(records)
    trackers = make_trackers(recipe.trackers, recipe.to_yaml())
    is_first = arguments.process_index == 0
    last, identity = _take_folder(folder, recipe, used, is_first)
    is_printing = watch is None and is_first
    if is_printing:
        _announce(recipe, trackers, last, steps)
        if model is None:
            print(f"loading {recipe.start or recipe.model}", flush=True)
    model, notes = _load(recipe, model, processor, used.records is not None)
    notes += _unused_senses(recipe, model.config, used.records)
    if evaluation is not None:
        config = model.config
        why = why_text_is_kept(recipe, guards_of(config), config.prefix_length)
        notes.append(evaluation.describe(steps, why))
    plan = prepare_groups(model, recipe)
    events = next((one for one in trackers if isinstance(one, EventFiles)), None)
    questions = evaluation.questions if evaluation else ()
    trainer = WingsTrainer(
        plan=plan,
        sampler=used.sampler,
        folder=folder,
        save_total_limit=recipe.save_total_limit,
        evaluation=evaluation,
        questions=FixedQuestions(questions, processor, recipe.limits, folder, events),
        kl_to_base=recipe.kl_to_base.weight if recipe.kl_to_base else None,
        loss_chunk=recipe.chunk_of_loss,
        encodes=recipe.feature_cache is None,
        model=model,
        args=arguments,
        train_dataset=used.samples,
        data_collator=used.collate,
        processing_class=processor,
        callbacks=[Progress(recipe.stage, watch), *trackers],
    )
    trainer.remove_callback(PrinterCallback)
    if is_printing:
        print(*notes, plan, sep="\n", flush=True)
    if trainer.is_world_process_zero():
        folder.claim(recipe, identity)
    trainer.accelerator.wait_for_everyone()
    with trainer.signals.listening():
        with cached_features(model, recipe.feature_cache) as caches:
            _fit(trainer, folder, last, steps)
        if is_printing:
            print(*describe_caches(caches), sep="\n", end="\n" if caches else "", flush=True)
        result = _result(trainer, recipe)
        if is_printing:
            _report(trainer, result)
        model.eval()
        if recipe.lora is not None and not recipe.lora.is_kept:
            merge_adapters(model)
        _finish(trainer, folder, result)
    return result


def _take_folder(
    folder: RunFolder, recipe: Recipe, used: RunData, is_first: bool
) -> tuple[Path | None, dict[str, Identity]]:
    """Lock the folder; the checkpoint to resume from, if any, and the identity of the data now."""
    with first_alone(is_first):
        if is_first:
            folder.lock()
            # Another process may have used it meanwhile.
            folder.validate(recipe)
    last = newest_whole_checkpoint(folder)
    validate_checkpoint_kind(recipe, last)
    validate_length(folder, recipe, used.order, last)
    if last is not None and recipe.evaluate.load_best:
        figure = recipe.evaluate.best_figure
        if best := BestEvaluation.of(state_of(last).log_history, figure):
            best.validate_whole(folder)
    identity: dict[str, Identity] = {}
    with first_alone(is_first):
        if is_first:
            identity = identities(recipe, used.records)
            if last is not None:
                validate_unchanged(folder.data_record, identity, recipe.allow_changed_data)
    return last, identity


def _announce(
    recipe: Recipe, trackers: Sequence[TrainerCallback], last: Path | None, steps: int
) -> None:
    if recipe.trackers is None and not trackers:
        print(f"TensorBoard is not installed: metrics go only to {RESULT}.", flush=True)
    if recipe.parallel != "ddp" and not is_launched():
        print(f"parallel: {recipe.parallel} has no effect in one process without torchrun.")
    if last is not None:
        print(describe_resume(last, steps), flush=True)


def _load(
    recipe: Recipe, given: WingsForCausalLM | None, processor: WingsProcessor, has_turns: bool
) -> tuple[WingsForCausalLM, list[str]]:
    """The model of the run, validated, and sentences about it."""
    is_fresh = given is None and recipe.start is None
    model = load_model(recipe) if given is None else given
    validate_finite_start(model)
    before = False if is_fresh else model.config.llm_trained
    model.config.llm_trained = is_llm_trained(recipe, before)
    config = model.config
    validate_kl_to_base(recipe, guards_of(config), config.prefix_length)
    rift = settle_turn_end(model.generation_config, processor.turn_end()) if has_turns else None
    return model, [rift] if rift else []


def _unused_senses(
    recipe: Recipe, config: WingsConfig, records: ConversationDataset | None
) -> list[str]:
    """A sentence for each trained sense of which no record has an item."""
    if records is None or any(one.shuffle_buffer is not None for one in records.records):
        # Other data, or a stream, which only the workers read.
        return []
    return [
        f"warning: no searched record of data has {Words.of(name).one}, so the sense {name!r}"
        " learns nothing in this run"
        for name in trained_senses(recipe, config.senses)
        if not any_of_sense(records, name)
    ]


def guards_of(config: WingsConfig) -> list[tuple[tuple[str, ...], bool]]:
    """Learners of each sense of a model, and whether they have a guard."""
    return [(sense.learners, sense.guard) for sense in config.senses.values()]


def _result(trainer: WingsTrainer, recipe: Recipe) -> TrainResult:
    """The result of a trained model; loads the best weights if the recipe says so."""
    history = trainer.state.log_history
    loads_best = recipe.evaluate.load_best
    return TrainResult(
        trainer.folder.path,
        trainer.state.global_step,
        trainer.seconds,
        history=[entry for entry in history if "loss" in entry],
        evaluations=[renamed(entry) for entry in evaluations(history)],
        stopped=trainer.stopped,
        skipped=trainer.all_skipped(),
        extended=trainer.extended,
        best=None if trainer.best is None else asdict(trainer.best),
        model_step=trainer.load_best() if loads_best else trainer.state.global_step,
        versions=recorded_versions(),
    )


def _report(trainer: WingsTrainer, result: TrainResult) -> None:
    step = result.steps if result.model_step is None else result.model_step
    if trainer.best is not None:
        print(trainer.best.describe(step), flush=True)
    if result.stopped:
        print(f"stopped early: {result.stopped}", flush=True)
    # Of the weights that the model has, not of later ones.
    until = [entry for entry in trainer.state.log_history if entry["step"] <= step]
    if warning := trainer.evaluation and trainer.evaluation.warning(until):
        print(warning, flush=True)
    if result.skipped:
        report_skipped(result.skipped)


def _encode_first(data: ConversationDataset) -> None:
    """Encode the first record of every source; a rare source may come up only after hours."""
    for start, records in zip(data.starts, data.records, strict=False):
        # Streams are read only by the workers.
        if records.shuffle_buffer is None:
            data[start]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides transformers' progress bars and restores the verbosity that `Trainer` changes."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _fit(trainer: WingsTrainer, folder: RunFolder, last: Path | None, steps: int) -> None:
    if last is not None and (step_of(last) >= steps or trainer.stopped_early_at(last)):
        # Interrupted while saving the final model: `Trainer` would take one more step.
        trainer.load_finished(last)
    else:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    done = trainer.state.global_step
    if done < steps and trainer.stopped is None:
        raise Preempted(
            f"Stopped by {trainer.signals.cause} after step {done} of {steps}; resume from"
            f" {folder.checkpoint(done)} with the same command."
        )


def _finish(trainer: WingsTrainer, folder: RunFolder, result: TrainResult) -> None:
    draft = folder.unfinished("model")
    with folder.writing("the final model"):
        if trainer.is_world_process_zero():
            # A kill may have come between the last checkpoint and this.
            trainer.remove_old_checkpoints()
        manifest = trainer.save_final(draft)
        if trainer.is_world_process_zero():
            folder.place_model(draft, manifest)
            folder.write(RESULT, result.to_json())
        trainer.accelerator.wait_for_everyone()
