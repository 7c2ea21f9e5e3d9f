"""The training loop: transformers' `Trainer` with a rate per group and atomic checkpoints."""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Sampler

from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.output_folder import sync
from wings.upstream.sharding import gather_whole_state
from wings.upstream.trainer import State, TrainerHooks, WorkerInit, state_of

from .best import BestEvaluation
from .data.bucketing import BatchingSampler
from .data.collator import loss_tokens
from .data.sampler import RecordSampler
from .data.workers import LostWorker, last_line, unwrapping_worker_errors
from .distributed import describe_shards, enable_sharding
from .finite import Named, first_not_finite, optimizer_state_of, weights_of
from .kl_to_base import BaseLLM, KLToBaseLoss
from .lora import adapters
from .manifest import Manifest
from .metrics.answers import FixedQuestions
from .metrics.evaluate import HeldOutEvaluation, loss_of, renamed
from .metrics.metric_tracker import MetricTracker
from .param_groups import TrainPlan
from .resume_state import ResumeCallback, ResumeState
from .run_folder import RunFolder
from .signals import DistributedStop, SignalHandler, init_worker


class WingsTrainer(TrainerHooks):
    """`Trainer` for one stage.

    Args:
        plan: parameter groups, from `prepare_groups`.
        sampler: the samples of every epoch.
        folder: the run's folder.
        save_total_limit: checkpoints to keep.
        evaluation: the held-out records, if any.
        questions: asked at every evaluation.
        kl_to_base: weight of the KL to the base LLM, if any.
        loss_chunk: tokens whose logits exist at one time, which that KL has no use for.
        encodes: False if features come from a `feature_cache`.
        **kwargs: `Trainer`'s own.
    """

    model: WingsForCausalLM

    def __init__(
        self,
        plan: TrainPlan,
        sampler: RecordSampler | BatchingSampler,
        folder: RunFolder,
        save_total_limit: int,
        evaluation: HeldOutEvaluation | None = None,
        questions: FixedQuestions | None = None,
        kl_to_base: float | None = None,
        loss_chunk: int | None = None,
        encodes: bool = True,
        **kwargs: Any,
    ) -> None:
        if evaluation is not None:
            # `Trainer` does not evaluate without a data set.
            kwargs["eval_dataset"] = evaluation.sets
        super().__init__(**kwargs)
        self.plan, self.sampler, self.folder = plan, sampler, folder
        # By name, as sharding replaces the tensors.
        self.saved_dtypes = plan.saved_dtypes(self.model)
        self.save_total_limit = save_total_limit
        self.signals = SignalHandler()
        self.add_callback(self.signals)
        self.add_callback(ResumeCallback(self.restore, self.set_epoch))
        self.skipped: dict[int, str] = {}
        self.extended: list[dict[str, int]] = []
        self.begun = time.perf_counter()
        self.rates: dict[str, float] = {}
        self.partial: Path | None = None
        self.evaluation, self.questions = evaluation, questions
        self.metric_tracker = MetricTracker(self.model, self.accelerator, encodes)
        if not self.model_accepts_loss_kwargs:
            raise TypeError(
                "The model's forward must take num_items_in_batch for a correct gradient."
            )
        self.llm = BaseLLM(bool(adapters(self.model)), self.is_sharded, self.accelerator)
        self.of_loss = {} if loss_chunk is None else {"loss_chunk": loss_chunk}
        self.kl_to_base: KLToBaseLoss | None = None
        if kl_to_base:
            self.kl_to_base = KLToBaseLoss(kl_to_base, self.llm, self.accelerator)
        if self.is_sharded:
            describe_shards(self.accelerator.state.fsdp_plugin, self.model, self.args.bf16)

    def prepare_sharding(self) -> None:
        """Turn on sharding for `parallel: fsdp`, on CPUs too."""
        if self.args.fsdp:
            enable_sharding(self.accelerator, self.args)
            self.is_sharded = True

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with the named parameter groups of the plan."""
        if self.optimizer is None:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer = kind(self.plan.optimizer_groups(self.args.weight_decay), **options)
            if self.is_sharded:
                self.plan.release()
        return self.optimizer

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """As in `Trainer`, with logits only at labels, gates on logged steps, and the KL term."""
        tokens = loss_tokens(inputs["labels"], inputs.get("kl_mask"))
        inputs = {**inputs, **tokens, **self.of_loss}
        with_gates = self.metric_tracker.with_gates
        if not with_gates and not self.kl_to_base:
            return super().compute_loss(model, inputs, *args, **kwargs)
        target = self.llm.target(model, inputs) if self.kl_to_base else None
        inputs["output_router_weights"] = with_gates
        loss, out = super().compute_loss(model, inputs, True, **kwargs)
        if with_gates:
            self.metric_tracker.add_gates(inputs, out.router_weights)
        if self.kl_to_base:
            loss = loss + self.kl_to_base.term(target, out.logits)
        return loss

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, torch.Tensor | int | None]:
        """The micro-batches of one step; records skipped records, metrics and rates."""
        try:
            with unwrapping_worker_errors(self.args.dataloader_num_workers):
                batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        except LostWorker:
            raise
        except WingsError as error:
            raise self._lost(str(error)) from None
        except (OSError, EOFError) as error:
            raise self._lost(f"Data cannot be read any more ({last_line(error)})") from error
        for batch in batches:
            self.skipped.update(batch.pop("skipped", ()))
        if self.kl_to_base:
            self.kl_to_base.count_tokens(batches)
        self.metric_tracker.add_batches(
            batches, with_gates=self._logs_after(self.state.global_step + 1)
        )
        self.rates = {group["name"]: group["lr"] for group in self.create_optimizer().param_groups}
        # Without any trained token the loss is 0, not 0 / 0.
        if items is not None:
            items = items.clamp(min=1) if isinstance(items, torch.Tensor) else max(items, 1)
        return batches, items

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: the stock estimate iterates over every parameter in every step."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add metrics, the rate of each group and the number of skipped records."""
        if "loss" in logs:
            logs.pop("learning_rate", None)
            logs |= {f"rate/{group}": rate for group, rate in self.rates.items()}
            logs["skipped"] = len(set(gather_object(list(self.skipped))))
            logs |= self.kl_to_base.pop() if self.kl_to_base else {}
            logs |= self.metric_tracker.pop()
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Losses on held-out records; ends the run if one of them rose too far.

        `Trainer` also calls this before the first step of a resumed run, which has them already.

        Raises:
            DistributedStop: a loss is not finite, or there is no figure as in `evaluate.best`.
        """
        if self.evaluation is None or not self.evaluation.is_due(self.state):
            return {}
        with self.metric_tracker.paused():
            size = self.args.per_device_train_batch_size
            history = self.state.log_history
            with unwrapping_worker_errors(self.evaluation.workers):
                losses = self.evaluation.run(
                    self.model_wrapped, self.llm, self.accelerator, size, history
                )
            if self.questions is not None:
                self._ask(self.questions)
        self._validate_figure(losses)
        for name in self.evaluation.sets:
            if not math.isfinite(loss := losses[loss_of(name)]):
                what = f"The loss on {name} is {loss} after step {self.state.global_step}"
                raise self._not_finite(what, "nothing was written after it")
        # Logging an evaluation would count as logging the step.
        should_log = self.control.should_log
        self.log(dict(losses))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, losses
        )
        self.control.should_log = should_log
        if self.best is not None and self.best.step == self.state.global_step:
            self.control.should_save = True
        if self.stopped is not None:
            self.control.should_training_stop = self.control.should_log = True
            self.control.should_save |= self.args.save_strategy != "no"
        return losses

    def _ask(self, questions: FixedQuestions) -> None:
        """The fixed questions; without shards the first process alone answers them."""
        is_first = self.is_world_process_zero()
        if is_first or self.is_sharded:
            bare = self.accelerator.unwrap_model(self.model_wrapped)
            questions.ask(bare, self.state.global_step, is_first)
        self.accelerator.wait_for_everyone()

    @property
    def stopped(self) -> str | None:
        """Reason for an early end, or None."""
        return None if self.evaluation is None else self.evaluation.reason(self.state.log_history)

    @property
    def best(self) -> BestEvaluation | None:
        """The best evaluation so far; None without `evaluate.best`."""
        if self.evaluation is None:
            return None
        return BestEvaluation.of(self.state.log_history, self.evaluation.settings.best_figure)

    def load_best(self) -> int:
        """Load the weights of the best evaluation; returns the step of the weights.

        Raises:
            DistributedStop: its checkpoint is not whole.
        """
        best = self.best
        if best is None or best.step == self.state.global_step:
            return self.state.global_step
        best.validate_whole(self.folder)
        self.load_weights(self.folder.checkpoint(best.step))
        return best.step

    def _validate_figure(self, losses: dict[str, float]) -> None:
        assert self.evaluation is not None
        figure, known = self.evaluation.settings.best_figure, sorted(renamed(losses))
        if figure is not None and figure not in known:
            raise DistributedStop(
                f"evaluate.best: no evaluation of this run has {figure}; known: {', '.join(known)}."
            )

    def load_finished(self, checkpoint: Path) -> None:
        """Load weights and history of a checkpoint after the last step."""
        self.begun = time.perf_counter()
        self.load_weights(checkpoint)
        self.state = state_of(checkpoint)
        self._restore_totals(ResumeState.read(checkpoint))

    @property
    def seconds(self) -> float:
        """Wall time of the steps so far, those of earlier processes too."""
        return time.perf_counter() - self.begun

    def all_skipped(self) -> list[str]:
        """A sentence per record that any process skipped, training records first."""
        entries = dict(gather_object(list(self.skipped.items())))
        held_out = {} if self.evaluation is None else self.evaluation.skipped
        others = dict(gather_object(list(held_out.items())))
        return [part[number] for part in (entries, others) for number in sorted(part)]

    def stopped_early_at(self, checkpoint: Path) -> bool:
        """True if the evaluation ended the run at this checkpoint."""
        history = state_of(checkpoint).log_history
        return self.evaluation is not None and self.evaluation.reason(history) is not None

    def before_logging(self) -> None:
        """Evaluate first, so that a run that ends by it also logs and saves its last step."""
        if self.control.should_evaluate:
            self.evaluate()

    def _logs_after(self, step: int) -> bool:
        return step in (1, self.state.max_steps) or step % self.state.logging_steps == 0

    def save_final(self, folder: Path) -> Manifest:
        """Save the finished model unsharded, for `from_pretrained`; returns its manifest.

        Raises:
            DistributedStop: a weight is not finite.
        """
        self.validate_finite(with_optimizer=False)
        if self.is_sharded:
            gather_whole_state(self.accelerator)
        self.save_model(str(folder))
        return self._manifest_of(folder)

    def validate_finite(self, with_optimizer: bool) -> None:
        """Check that nothing non-finite is about to be written, on all processes together.

        A finite loss is computed before the step, so the weights after it can still overflow.

        Raises:
            DistributedStop: names the first such tensor.
        """
        weights: Iterable[Named] = weights_of(self.model)
        if with_optimizer:
            weights = (*weights, *optimizer_state_of(self.model, self.create_optimizer()))
        else:
            weights = (
                (name, tensor, self.saved_dtypes.get(name.rpartition(" ")[2], dtype))
                for name, tensor, dtype in weights
            )
        bad = [name for name in gather_object([first_not_finite(weights)]) if name]
        if bad:
            what = f"After step {self.state.global_step}, {bad[0]} is not finite"
            raise self._not_finite(what, "nothing was written")

    @contextlib.contextmanager
    def reading_checkpoint(self, checkpoint: Path) -> Iterator[None]:
        """Names the checkpoint in every error of the block."""
        try:
            yield
        except WingsError:
            raise
        # Error types depend on the file.
        except Exception as error:
            raise WingsError(
                f"output: {checkpoint} cannot be resumed from ({last_line(error)}); delete it to"
                " resume from an older one."
            ) from error

    def validate_tensors(self, missing: list[str], unknown: list[str]) -> None:
        """Check that a checkpoint has the tensors of the model, no fewer and no more.

        Raises:
            WingsError: names the first one.
        """
        every = list(self.model.named_parameters(remove_duplicate=False))
        there = {id(parameter) for name, parameter in every if name not in missing}
        # Tied weights are one tensor in the file, under either name.
        tied = {name for name, parameter in every if id(parameter) in there}
        missing = [name for name in missing if name not in tied]
        for names, sentence in ((missing, "lacks"), (unknown, "has an unknown tensor")):
            if names:
                raise WingsError(
                    f"output: the checkpoint {sentence} {names[0]}; delete it to resume from an"
                    " older one."
                )

    def restore(self) -> None:
        """Restore the `ResumeState` of the checkpoint that training starts from, if any."""
        self.begun = time.perf_counter()
        step = self.state.global_step
        if not step:
            return
        checkpoint = self.folder.checkpoint(step)
        saved = ResumeState.read(checkpoint)
        self._restore_totals(saved)
        self.resume_losses(saved.loss, saved.logged)
        if self.kl_to_base:
            self.kl_to_base.restore(saved.kl_to_base)
        planned = state_of(checkpoint).max_steps
        if planned != self.state.max_steps:
            self.extended.append({"step": step, "steps": planned})
            self._renew_rates()

    def _restore_totals(self, saved: ResumeState) -> None:
        self.begun -= saved.seconds
        self.skipped, self.extended = saved.skipped, saved.extended
        if self.evaluation is not None:
            for name, number, sentence in saved.held_out_skipped:
                self.evaluation.skipped[name, number] = sentence

    def _renew_rates(self) -> None:
        """Set the rates of the next step by a new schedule; the optimiser has those of the old."""
        schedule = self.lr_scheduler
        assert isinstance(schedule, LambdaLR)
        rates = zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
        groups = self.create_optimizer().param_groups
        for group, (base, factor) in zip(groups, rates, strict=True):
            group["lr"] = base * factor(schedule.last_epoch)

    def set_epoch(self) -> None:
        """Set the epoch of the sampler.

        `Trainer` asks the loader to. When an epoch is resumed on several ranks, accelerate's
        wrapper does not pass it on, and the rest would be that of epoch 0.
        """
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
        steps = len(self.sampler) // (batch * self.args.world_size)
        self.sampler.set_epoch(self.state.global_step // steps)

    def worker_init(self, begin: WorkerInit | None) -> WorkerInit:
        """Workers ignore signals that are meant for this process."""
        return partial(init_worker, begin)

    def training_sampler(self) -> Sampler[int]:
        """The sampler of this run."""
        return self.sampler

    def before_optimizer_step(self, gradient_norm: float) -> None:
        """Reduce signals and non-finite values over all processes before any weight changes.

        Raises:
            DistributedStop: the loss or gradient of a process is not finite.
        """
        loss = float(self.unlogged_loss)
        bad = not (math.isfinite(loss) and math.isfinite(gradient_norm))
        flags = torch.tensor([self.signals.received is not None, bad], device=self.args.device)
        flags = self.accelerator.reduce(flags.long(), reduction="sum")
        self.signals.agreed, bad = flags.bool().tolist()
        if bad:
            what = f"gradient is {gradient_norm}" if math.isfinite(loss) else f"loss is {loss}"
            what = f"The {what} at step {self.state.global_step + 1}"
            raise self._not_finite(what, "no weight was updated with it")

    def checkpoint_parent(self) -> Path | None:
        """Folder of an unfinished checkpoint."""
        return self.partial

    def around_checkpoint(self, write: Callable[[], None]) -> None:
        """Write under a temporary name; rename when every process is done.

        Raises:
            WingsError: a file cannot be written; earlier checkpoints are untouched.
        """
        step = self.state.global_step
        self.validate_finite(with_optimizer=True)
        self.partial = self.folder.unfinished(str(step))
        draft = self.partial / f"checkpoint-{step}"
        saved = self._resume_state()
        with self.metric_tracker.paused(), self.folder.writing(f"the checkpoint of step {step}"):
            write()
            if self.args.should_save:
                saved.write(draft)
            manifest = self._manifest_of(draft)
            if self.args.should_save:
                self.folder.place_checkpoint(draft, step, manifest)
                self.partial.rmdir()
                self.remove_old_checkpoints()
            self.accelerator.wait_for_everyone()
        self.partial = None

    def remove_old_checkpoints(self) -> None:
        """Remove all checkpoints but the last ones and that of the best evaluation."""
        best = None if self.best is None else self.best.step
        self.folder.remove_old_checkpoints(self.save_total_limit, best)

    def _manifest_of(self, draft: Path) -> Manifest:
        """The manifest of files that all processes wrote, when they are on disk."""
        self.accelerator.wait_for_everyone()
        # Hashed first: meanwhile the system writes them to disk.
        manifest = Manifest.of(draft, self.args.process_index, self.args.world_size)
        if self.accelerator.is_local_main_process:
            sync(draft)
        self.accelerator.wait_for_everyone()
        return manifest

    def _resume_state(self) -> ResumeState:
        skipped = dict(gather_object(list(self.skipped.items())))
        loss = self.accelerator.gather(self.unlogged_loss.detach()).mean().item()
        totals = self.kl_to_base.totals() if self.kl_to_base else []
        held_out = {} if self.evaluation is None else self.evaluation.skipped
        others = [(*key, why) for key, why in dict(gather_object(list(held_out.items()))).items()]
        return ResumeState(
            skipped, loss, self.last_logged_step, totals, others, self.seconds, self.extended
        )

    def state_to_save(self, state_dict: State | None) -> State | None:
        """Tensors of the finished model, each group in the dtype of the plan.

        Tied weights, which shards return as two tensors, become one again.
        """
        if self.partial is not None:
            return state_dict
        state_dict = state_dict or self.model.state_dict()
        names: dict[int, str] = {}
        rounded = {}
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            first = names.setdefault(id(parameter), name)
            if first == name:
                tensor = state_dict[name]
                half = self.saved_dtypes[name] == torch.bfloat16
                rounded[name] = tensor.to(torch.bfloat16) if half else tensor
            elif name in state_dict:
                rounded[name] = rounded[first]
        return {**state_dict, **rounded}

    def _not_finite(self, what: str, kept: str) -> DistributedStop:
        remedy = "lower the learning rates or check the data"
        return DistributedStop(f"{what}: {remedy}; {kept}; {self.folder.saved}.")

    def _lost(self, sentence: str) -> WingsError:
        step = self.state.global_step
        return WingsError(f"{sentence.rstrip('.')}; after step {step}, {self.folder.saved}.")
