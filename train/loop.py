"""The loop: transformers' `Trainer` with rates per group, a fixed order and whole checkpoints."""

import math
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import DataLoaderAdapter
from accelerate.utils import gather_object
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME

from wings.errors import WingsError
from wings.train.carried import Carried, Resume
from wings.train.folder import RunFolder, sync
from wings.train.halt import Agreed, Halt, begin_worker
from wings.train.stage import Plan

_WORKER_ERROR = f"{WingsError.__module__}.{WingsError.__name__}: "


class WingsTrainer(Trainer):
    """`Trainer` for one stage.

    Args:
        plan: groups and rates, from `stage.prepare`.
        order: the samples of every epoch.
        folder: where checkpoints go.
        keep: how many of them stay.
        **kwargs: `Trainer`'s own.
    """

    def __init__(
        self, plan: Plan, order: Sampler[int], folder: RunFolder, keep: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.plan, self.order, self.folder, self.keep = plan, order, folder, keep
        self.halt = Halt()
        self.add_callback(self.halt)
        self.add_callback(Resume(self.take_up, self.begin_epoch))
        self.skipped: dict[int, str] = {}
        self.rates: dict[str, float] = {}
        self.partial: Path | None = None
        if not self.model_accepts_loss_kwargs:
            raise TypeError("the model's forward must take num_items_in_batch for a right gradient")

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with a named parameter group per row of the plan."""
        if self.optimizer is None:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer = kind(self.plan.optimizer_groups(self.args.weight_decay), **options)
        return self.optimizer

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """As in `Trainer`, with logits only where some row is asked for the next token.

        With a large vocabulary the head costs as much as many blocks, and answers are short.
        """
        following = functional.pad(inputs["labels"][:, 1:], (0, 1), value=-100)
        columns = (following != -100).any(dim=0).nonzero().squeeze(1)
        asked = {"logits_to_keep": columns, "shift_labels": following[:, columns]}
        return super().compute_loss(model, {**inputs, **asked}, *args, **kwargs)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, torch.Tensor | int | None]:
        """The micro-batches of one step; takes note of skipped records and of this step's rates."""
        try:
            batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        except WingsError as error:
            # From a data worker, torch wraps the sentence in the worker's whole traceback.
            raise self._lost(str(error).splitlines()[-1].removeprefix(_WORKER_ERROR)) from None
        except OSError as error:
            # Of a worker that is gone torch tells in many ways; `train` has one for them all.
            if isinstance(error, ConnectionError):
                raise RuntimeError(f"DataLoader worker is gone ({error})") from error
            raise self._lost(f"data cannot be read any more ({last_line(error)})") from error
        for batch in batches:
            self.skipped.update(batch.pop("skipped", ()))
        self.rates = {group["name"]: group["lr"] for group in self.create_optimizer().param_groups}
        return batches, items

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: the stock estimate walks over every parameter in every step."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the rate of each group and the skipped records."""
        if "loss" in logs:
            logs.pop("learning_rate", None)
            logs |= {f"rate/{group}": rate for group, rate in self.rates.items()}
            logs["skipped"] = len(set(gather_object(list(self.skipped))))
        super().log(logs, start_time)

    def load_finished(self, checkpoint: Path) -> None:
        """Take weights and history of a checkpoint after which no step is left."""
        self._load_from_checkpoint(str(checkpoint))
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        self.skipped = Carried.read(checkpoint).skipped

    def take_up(self) -> None:
        """Go on with the sums of the checkpoint that training begins from, if there is one."""
        if self.state.global_step:
            last = self.folder.checkpoint(self.state.global_step)
            carried = Carried.read(last)
            self.skipped = carried.skipped
            self._tr_loss += carried.loss
            self._globalstep_last_logged = carried.logged

    def begin_epoch(self) -> None:
        """Tell the order its epoch.

        `Trainer` asks the loader to. Where an epoch is resumed on several ranks, what accelerate
        wraps around the sampler does not let it through: the rest would be that of epoch 0.
        """
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
        steps = len(self.order) // (batch * self.args.world_size)
        self.order.set_epoch(self.state.global_step // steps)

    def get_train_dataloader(self) -> DataLoader:
        """As in `Trainer`, with workers that leave signals to this process."""
        loader = super().get_train_dataloader()
        # What accelerate makes of a loader asks the one that it was made of.
        base = loader.base_dataloader if isinstance(loader, DataLoaderAdapter) else loader
        base.worker_init_fn = partial(begin_worker, base.worker_init_fn)
        return loader

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self.order

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """As in `Trainer`; here, before the optimiser's step, all processes look at one another.

        Raises:
            Agreed: the loss or the gradient of some process is not finite. No weight has it yet.
        """
        norm = super()._get_grad_norm(model, grad_norm)
        loss, length = float(self._tr_loss), float(norm)
        bad = not (math.isfinite(loss) and math.isfinite(length))
        asked = torch.tensor([self.halt.received is not None, bad], device=self.args.device)
        halt, bad = self.accelerator.reduce(asked.long(), reduction="sum").bool().tolist()
        self.halt.agreed = halt
        if bad:
            what = f"gradient is {length}" if math.isfinite(loss) else f"loss is {loss}"
            raise Agreed(
                f"the {what} at step {self.state.global_step + 1}: lower the rates or look at the"
                f" data; no weight has taken it in; {self.folder.saved}."
            )
        return norm

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.partial or super()._get_output_dir(trial))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write under another name, rename when every process is done.

        Raises:
            WingsError: something cannot be written; the checkpoints before are untouched.
        """
        step = self.state.global_step
        self.partial = self.folder.unfinished(str(step))
        draft, whole = self.partial / f"checkpoint-{step}", self.folder.checkpoint(step)
        carried = self._carried()
        with self.folder.writing(f"the checkpoint of step {step}"):
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                carried.write(draft)
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_local_main_process:
                sync(draft)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                os.replace(draft, whole)
                self.partial.rmdir()
                self.folder.forget_old(self.keep)
            self.accelerator.wait_for_everyone()
        self.partial = None

    def _carried(self) -> Carried:
        skipped = dict(gather_object(list(self.skipped.items())))
        loss = self.accelerator.gather(self._tr_loss.detach()).mean().item()
        return Carried(skipped, loss, self._globalstep_last_logged)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        # A pickle has no place in a folder that people publish; the recipe says what it said.
        (Path(output_dir or self.folder.path) / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _lost(self, sentence: str) -> WingsError:
        step = self.state.global_step
        return WingsError(f"{sentence.rstrip('.')}; after step {step}, {self.folder.saved}.")


def last_line(error: Exception) -> str:
    """What an error says, without the traceback that torch puts before a data worker's."""
    return str(error).strip().splitlines()[-1]
