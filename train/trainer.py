"""The loop: transformers' `Trainer` with rates per group, a fixed order and whole checkpoints."""

import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import Sampler

from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM, part_of
from wings.upstream.sharding import gather_whole_state
from wings.upstream.trainer import State, TrainerHooks, WorkerInit, state_of

from .data.bucketing import Batching
from .data.sampler import Order
from .data.workers import LostWorker, asking_workers, last_line
from .distributed import describe_shards, take_up
from .kl_to_base import KLToBaseLoss
from .loss import asked
from .metrics.evaluate import Evaluation
from .metrics.metric_tracker import Figures
from .param_groups import Plan
from .resume_state import Carried, Resume
from .run_folder import RunFolder, sync
from .signals import Agreed, Halt, begin_worker


class WingsTrainer(TrainerHooks):
    """`Trainer` for one stage.

    Args:
        plan: groups and rates, from `stage.prepare`.
        order: the samples of every epoch.
        folder: where checkpoints go.
        save_total_limit: how many of them stay.
        evaluation: the held-out records, if any.
        kl_to_base: the weight of the term that retains text, if any.
        **kwargs: `Trainer`'s own.
    """

    model: WingsForCausalLM

    def __init__(
        self,
        plan: Plan,
        order: Order | Batching,
        folder: RunFolder,
        save_total_limit: int,
        evaluation: Evaluation | None = None,
        kl_to_base: float | None = None,
        **kwargs: Any,
    ) -> None:
        if evaluation is not None:
            # `Trainer` evaluates only with a set of its own in hand.
            kwargs["eval_dataset"] = evaluation.sets
        super().__init__(**kwargs)
        self.plan, self.order, self.folder = plan, order, folder
        self.save_total_limit = save_total_limit
        self.halt = Halt()
        self.add_callback(self.halt)
        self.add_callback(Resume(self.take_up, self.begin_epoch))
        self.skipped: dict[int, str] = {}
        self.rates: dict[str, float] = {}
        self.partial: Path | None = None
        self.evaluation, self.figures = evaluation, Figures(self.model, self.accelerator)
        if not self.model_accepts_loss_kwargs:
            raise TypeError("the model's forward must take num_items_in_batch for a right gradient")
        self.kl_to_base: KLToBaseLoss | None = None
        if kl_to_base:
            has_adapters = any(row.group == "lora" for row in plan.rows)
            self.kl_to_base = KLToBaseLoss(
                kl_to_base, has_adapters, self.is_sharded, self.accelerator
            )
        if self.is_sharded:
            describe_shards(self.accelerator.state.fsdp_plugin, self.model, self.args.bf16)

    def prepare_sharding(self) -> None:
        """What is to be sharded is sharded, on a CPU too."""
        if self.args.fsdp:
            take_up(self.accelerator, self.args)
            self.is_sharded = True

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with a named parameter group per row of the plan."""
        if self.optimizer is None:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer = kind(self.plan.optimizer_groups(self.args.weight_decay), **options)
            if self.is_sharded:
                self.plan.release()
        return self.optimizer

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """As in `Trainer`, with logits only where some row is asked for the next token."""
        inputs = {**inputs, **asked(inputs["labels"])}
        if not self.figures.with_gates and not self.kl_to_base:
            return super().compute_loss(model, inputs, *args, **kwargs)
        retained = self.kl_to_base.take(model, inputs) if self.kl_to_base else None
        inputs["output_router_weights"] = self.figures.with_gates
        loss, out = super().compute_loss(model, inputs, True, **kwargs)
        if self.figures.with_gates:
            self.figures.take_gates(inputs, out.router_weights)
        if self.kl_to_base:
            loss = loss + self.kl_to_base.term(retained, out.logits)
        return loss

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, torch.Tensor | int | None]:
        """The micro-batches of one step; takes note of skipped records and of this step's rates."""
        try:
            with asking_workers(self.args.dataloader_num_workers):
                batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        except LostWorker:
            raise
        except WingsError as error:
            raise self._lost(str(error)) from None
        except (OSError, EOFError) as error:
            raise self._lost(f"data cannot be read any more ({last_line(error)})") from error
        for batch in batches:
            self.skipped.update(batch.pop("skipped", ()))
        if self.kl_to_base:
            self.kl_to_base.expect(batches)
        self.figures.take(batches, with_gates=self._logs_after(self.state.global_step + 1))
        self.rates = {group["name"]: group["lr"] for group in self.create_optimizer().param_groups}
        # Where nothing at all is trained the loss is 0, and not 0 / 0.
        if items is not None:
            items = items.clamp(min=1) if isinstance(items, torch.Tensor) else max(items, 1)
        return batches, items

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: the stock estimate walks over every parameter in every step."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the figures, the rate of each group and the skipped records."""
        if "loss" in logs:
            logs.pop("learning_rate", None)
            logs |= {f"rate/{group}": rate for group, rate in self.rates.items()}
            logs["skipped"] = len(set(gather_object(list(self.skipped))))
            logs |= self.kl_to_base.read() if self.kl_to_base else {}
            logs |= self.figures.read()
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The losses on held-out records; ends the run where one of them rose too far.

        Called before the first step too, also of a run that goes on, which knows them already.
        """
        if self.evaluation is None or not self.evaluation.is_due(self.state):
            return {}
        with self.figures.aside():
            size = self.args.per_device_train_batch_size
            history = self.state.log_history
            with asking_workers(self.evaluation.workers):
                found = self.evaluation.figures(self.model_wrapped, self.accelerator, size, history)
        # Logging an evaluation would count as logging the step.
        should_log = self.control.should_log
        self.log(dict(found))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        self.control.should_log = should_log
        if self.stopped is not None:
            self.control.should_training_stop = self.control.should_log = True
            self.control.should_save |= self.args.save_strategy != "no"
        return found

    @property
    def stopped(self) -> str | None:
        """Why the run ends before its last step, or None."""
        return None if self.evaluation is None else self.evaluation.reason(self.state.log_history)

    def load_finished(self, checkpoint: Path) -> None:
        """Take weights and history of a checkpoint after which no step is left."""
        self.load_weights(checkpoint)
        self.state = state_of(checkpoint)
        self.skipped = Carried.read(checkpoint).skipped

    def ends_at(self, checkpoint: Path) -> bool:
        """Whether a checkpoint is that of a run that was stopped early."""
        history = state_of(checkpoint).log_history
        return self.evaluation is not None and self.evaluation.reason(history) is not None

    def before_logging(self) -> None:
        """Evaluate first: a run that ends by it logs and saves its last step as any other does."""
        if self.control.should_evaluate:
            self.evaluate()

    def _logs_after(self, step: int) -> bool:
        return step in (1, self.state.max_steps) or step % self.state.logging_steps == 0

    def save_whole(self, folder: Path) -> None:
        """The finished model in one piece, for `from_pretrained`, however it was spread."""
        if self.is_sharded:
            gather_whole_state(self.accelerator)
        self.save_model(str(folder))
        self.accelerator.wait_for_everyone()

    def take_up(self) -> None:
        """Go on with the sums of the checkpoint that training begins from, if there is one."""
        if self.state.global_step:
            last = self.folder.checkpoint(self.state.global_step)
            carried = Carried.read(last)
            self.skipped = carried.skipped
            self.resume_losses(carried.loss, carried.logged)
            if self.kl_to_base:
                self.kl_to_base.take_up(carried.kl_to_base)

    def begin_epoch(self) -> None:
        """Tell the order its epoch.

        `Trainer` asks the loader to. Where an epoch is resumed on several ranks, what accelerate
        wraps around the sampler does not let it through: the rest would be that of epoch 0.
        """
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
        steps = len(self.order) // (batch * self.args.world_size)
        self.order.set_epoch(self.state.global_step // steps)

    def worker_init(self, begin: WorkerInit | None) -> WorkerInit:
        """Workers leave signals to this process."""
        return partial(begin_worker, begin)

    def training_sampler(self) -> Sampler[int]:
        """The order of this run."""
        return self.order

    def before_optimizer_step(self, gradient_norm: float) -> None:
        """All processes look at one another before any weight changes.

        Raises:
            Agreed: the loss or the gradient of some process is not finite. No weight has it yet.
        """
        loss = float(self.unlogged_loss)
        bad = not (math.isfinite(loss) and math.isfinite(gradient_norm))
        asked = torch.tensor([self.halt.received is not None, bad], device=self.args.device)
        halt, bad = self.accelerator.reduce(asked.long(), reduction="sum").bool().tolist()
        self.halt.agreed = halt
        if bad:
            what = f"gradient is {gradient_norm}" if math.isfinite(loss) else f"loss is {loss}"
            raise Agreed(
                f"the {what} at step {self.state.global_step + 1}: lower the rates or look at the"
                f" data; no weight has taken it in; {self.folder.saved}."
            )

    def checkpoint_parent(self) -> Path | None:
        """Where a checkpoint that is not whole yet is written."""
        return self.partial

    def around_checkpoint(self, write: Callable[[], None]) -> None:
        """Write under another name, rename when every process is done.

        Raises:
            WingsError: something cannot be written; the checkpoints before are untouched.
        """
        step = self.state.global_step
        self.partial = self.folder.unfinished(str(step))
        draft, whole = self.partial / f"checkpoint-{step}", self.folder.checkpoint(step)
        carried = self._carried()
        with self.figures.aside(), self.folder.writing(f"the checkpoint of step {step}"):
            write()
            if self.args.should_save:
                carried.write(draft)
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_local_main_process:
                sync(draft)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                os.replace(draft, whole)
                self.partial.rmdir()
                self.folder.forget_old(self.save_total_limit)
            self.accelerator.wait_for_everyone()
        self.partial = None

    def _carried(self) -> Carried:
        skipped = dict(gather_object(list(self.skipped.items())))
        loss = self.accelerator.gather(self.unlogged_loss.detach()).mean().item()
        totals = self.kl_to_base.totals() if self.kl_to_base else []
        return Carried(skipped, loss, self.last_logged_step, totals)

    def state_to_save(self, state_dict: State | None) -> State | None:
        """Of the finished model, every group in the type in which the plan says it is kept.

        Tied weights, which come out of shards as two tensors, are one again.
        """
        if self.partial is not None:
            return state_dict
        state_dict = state_dict or self.model.state_dict()
        kinds = {row.group: row.saved for row in self.plan.rows}
        first: dict[int, str] = {}
        rounded = {}
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            own = first.setdefault(id(parameter), name)
            if own == name:
                tensor = state_dict[name]
                half = kinds[part_of(name)] == torch.bfloat16
                rounded[name] = tensor.to(torch.bfloat16) if half else tensor
            elif name in state_dict:
                rounded[name] = rounded[own]
        return {**state_dict, **rounded}

    def _lost(self, sentence: str) -> WingsError:
        step = self.state.global_step
        return WingsError(f"{sentence.rstrip('.')}; after step {step}, {self.folder.saved}.")
