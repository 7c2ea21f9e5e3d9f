"""The loop: transformers' `Trainer` with rates per group, a fixed order and whole checkpoints."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME

from wings.errors import WingsError
from wings.model import part_of
from wings.train.folder import RunFolder
from wings.train.order import Order
from wings.train.parallel import describe_shards, take_up
from wings.train.stage import Plan

_WORKER_ERROR = f"{WingsError.__module__}.{WingsError.__name__}: "


class WingsTrainer(Trainer):
    """`Trainer` for one stage.

    Args:
        plan: groups and rates, from `stage.prepare`.
        order: the samples of every epoch.
        folder: where checkpoints go.
        **kwargs: `Trainer`'s own.
    """

    def __init__(
        self, plan: Plan, order: Order, folder: RunFolder, keep: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.plan, self.order, self.folder, self.keep = plan, order, folder, keep
        self.skipped: dict[int, str] = {}
        self.rates: dict[str, float] = {}
        self.partial: Path | None = None
        if not self.model_accepts_loss_kwargs:
            raise TypeError("the model's forward must take num_items_in_batch for a right gradient")
        if self.is_fsdp_enabled:
            describe_shards(self.accelerator.state.fsdp_plugin, self.model, self.args.bf16)

    def create_accelerator_and_postprocess(self) -> None:
        """As in `Trainer`; what is to be sharded is sharded, on a CPU too."""
        super().create_accelerator_and_postprocess()
        if self.args.fsdp:
            take_up(self.accelerator, self.args)
            self.is_fsdp_enabled = True

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with a named parameter group per row of the plan."""
        if self.optimizer is None:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer = kind(self.plan.optimizer_groups(self.args.weight_decay), **options)
            if self.is_fsdp_enabled:
                self.plan.release()
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
            raise WingsError(str(error).splitlines()[-1].removeprefix(_WORKER_ERROR)) from None
        for batch in batches:
            self.skipped.update(batch.pop("skipped", ()))
        self.rates = {group["name"]: group["lr"] for group in self.create_optimizer().param_groups}
        return batches, items

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: the stock estimate walks over every parameter in every step."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the rate of each group and the skipped records.

        Raises:
            WingsError: the loss is not finite.
        """
        if "loss" in logs:
            logs.pop("learning_rate", None)
            logs |= {f"rate/{group}": rate for group, rate in self.rates.items()}
            logs["skipped"] = self._sum_over_ranks(len(self.skipped))
            self._require_finite(logs["loss"])
        super().log(logs, start_time)

    def load_finished(self, checkpoint: Path) -> None:
        """Take weights and history of a checkpoint after which no step is left."""
        self._load_from_checkpoint(str(checkpoint))
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))

    def save_whole(self) -> None:
        """The finished model in one piece, for `from_pretrained`, however it was spread."""
        if self.is_fsdp_enabled:
            self.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        self.save_model(str(self.folder.path))
        self.accelerator.wait_for_everyone()

    def _get_train_sampler(self, train_dataset: Any = None) -> Order:
        return self.order

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.partial or super()._get_output_dir(trial))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write under another name, rename when every process is done."""
        self.partial = self.folder.path / f"writing-{self.state.global_step}"
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            name = f"checkpoint-{self.state.global_step}"
            os.replace(self.partial / name, self.folder.path / name)
            self.partial.rmdir()
            self.folder.forget_old(self.keep)
        self.accelerator.wait_for_everyone()
        self.partial = None

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.partial is None and self.args.should_save:
            state_dict = self._rounded(state_dict or self.model.state_dict())
        super()._save(output_dir, state_dict)
        # A pickle has no place in a folder that people publish; the recipe says what it said.
        (Path(output_dir or self.folder.path) / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _rounded(self, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Every group in the type in which the plan says the finished model keeps it.

        Tied weights, which come out of shards as two tensors, are one again.
        """
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

    def _sum_over_ranks(self, number: int) -> int:
        count = torch.tensor(number, device=self.args.device)
        return int(self.accelerator.reduce(count, reduction="sum"))

    def _require_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            last = self.folder.last_checkpoint()
            saved = f"the last whole checkpoint is {last}" if last else "no checkpoint was saved"
            raise WingsError(
                f"the loss is {loss} at step {self.state.global_step}: lower the rates or look at"
                f" the data; {saved}."
            )
