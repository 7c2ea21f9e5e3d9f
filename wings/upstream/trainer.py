"""The private members of transformers' `Trainer` that a training run overrides or reads."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME

from .contract import Contract
from .loader import base_loader, end_persistent_workers

WorkerInit = Callable[[int], None]
State = dict[str, Tensor]


def _on_numbered_cpu(storage: Any, location: str) -> Any:
    """Returns the storage where a file is read to `cpu:0`; None leaves it to torch."""
    return storage if location.startswith("cpu:") else None


# Before transformers 5.24 several CPU processes read their optimiser to "cpu:0", a device that
# torch.load does not accept. Without this they could not resume.
torch.serialization.register_package(1, lambda storage: None, _on_numbered_cpu)


class TrainerHooks(Trainer):
    """`Trainer` whose private steps call methods with plain names."""

    _loader: DataLoader | None = None

    def prepare_sharding(self) -> None:
        """Called after the accelerator was made and before anything is sharded."""

    def training_sampler(self) -> Sampler[int]:
        """The order of the training set."""
        raise TypeError(f"{type(self).__name__} must define training_sampler.")

    def before_optimizer_step(self, gradient_norm: float) -> None:
        """Called once a step, between the last backward pass and the optimiser."""

    def before_logging(self) -> None:
        """Called before a step is logged, evaluated and saved, and once more at the end."""

    def around_checkpoint(self, write: Callable[[], None]) -> None:
        """Calls `write`, which writes the checkpoint of this step."""
        write()

    def checkpoint_parent(self) -> Path | None:
        """The folder that holds checkpoints; None for the run's own."""
        return None

    def reading_checkpoint(self, checkpoint: Path) -> AbstractContextManager[None]:
        """A context in which parts of a checkpoint are read."""
        return nullcontext()

    def validate_tensors(self, missing: list[str], unknown: list[str]) -> None:
        """Called with names that a checkpoint lacks or that the model lacks, tied ones too."""

    def state_to_save(self, state_dict: State | None) -> State | None:
        """The tensors of a model that is about to be written; None for those it has."""
        return state_dict

    def worker_init(self, begin: WorkerInit | None) -> WorkerInit | None:
        """Returns the function that a data worker calls first, in place of `begin`."""
        return begin

    @property
    def is_sharded(self) -> bool:
        """True where FSDP shards the weights."""
        return self.is_fsdp_enabled

    @is_sharded.setter
    def is_sharded(self, value: bool) -> None:
        self.is_fsdp_enabled = value

    @property
    def unlogged_loss(self) -> Tensor:
        """Sum of the losses since they were last logged, a scalar on this process."""
        return self._tr_loss

    @property
    def last_logged_step(self) -> int:
        """The step at which losses were last logged."""
        return self._globalstep_last_logged

    def resume_losses(self, loss: float, last_logged_step: int) -> None:
        """Restores the loss sums of an earlier process."""
        self._tr_loss += loss
        self._globalstep_last_logged = last_logged_step

    def load_weights(self, checkpoint: Path) -> None:
        """Reads the model's weights from a checkpoint, whole or sharded."""
        self._load_from_checkpoint(str(checkpoint))

    def create_accelerator_and_postprocess(self) -> None:
        """As in `Trainer`, then `prepare_sharding`."""
        super().create_accelerator_and_postprocess()
        self.prepare_sharding()

    def get_train_dataloader(self) -> DataLoader:
        """As in `Trainer`, with workers that begin as `worker_init` says."""
        loader = super().get_train_dataloader()
        # accelerate's loader reads worker_init_fn from the loader that it wraps.
        self._loader = base_loader(loader)
        self._loader.worker_init_fn = self.worker_init(self._loader.worker_init_fn)
        return loader

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As in `Trainer`; the workers of the training set have exited when it ends."""
        try:
            return super().train(*args, **kwargs)
        finally:
            if self._loader is not None:
                end_persistent_workers(self._loader)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self.training_sampler()

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        self.before_logging()
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        self.before_optimizer_step(float(norm))
        return norm

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        with self.reading_checkpoint(Path(resume_from_checkpoint)):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with nullcontext() if checkpoint is None else self.reading_checkpoint(Path(checkpoint)):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with nullcontext() if checkpoint is None else self.reading_checkpoint(Path(checkpoint)):
            super()._load_rng_state(checkpoint)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        self.validate_tensors(load_result.missing_keys, load_result.unexpected_keys)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.checkpoint_parent() or super()._get_output_dir(trial))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        save = super()._save_checkpoint
        self.around_checkpoint(lambda: save(model, trial))

    def _save(self, output_dir: str | None = None, state_dict: State | None = None) -> None:
        if self.args.should_save:
            state_dict = self.state_to_save(state_dict)
        model: Any = self.accelerator.unwrap_model(self.model)
        # `Trainer` resumes with `load_state_dict`, which knows the model's own names only.
        model.saves_original_names = self.checkpoint_parent() is None
        try:
            super()._save(output_dir, state_dict)
        finally:
            del model.saves_original_names
        # No pickle in a folder that people publish; the recipe holds the same settings.
        folder = Path(output_dir or self.args.output_dir or "")
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)


def state_of(checkpoint: Path) -> TrainerState:
    """Reads the state of the run that `Trainer` saved in a checkpoint."""
    return TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))


def _check_steps() -> None:
    import tempfile

    from transformers import PrinterCallback, TrainingArguments

    calls: list[str] = []

    class Line(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor, labels: Tensor, **kwargs: Any) -> dict[str, Tensor]:
            return {"loss": ((self.weight * x - labels) ** 2).mean()}

    class Watched(TrainerHooks):
        def prepare_sharding(self) -> None:
            calls.append("accelerator")

        def training_sampler(self) -> Sampler[int]:
            calls.append("sampler")
            return torch.utils.data.SequentialSampler(range(4))

        def before_optimizer_step(self, gradient_norm: float) -> None:
            assert gradient_norm > 0 and float(self.unlogged_loss) > 0, "no loss or gradient yet"
            calls.append(f"step {self.state.global_step + 1}")

        def before_logging(self) -> None:
            calls.append(f"log {self.state.global_step}")

        def around_checkpoint(self, write: Callable[[], None]) -> None:
            write()
            calls.append("saved")

        def checkpoint_parent(self) -> Path | None:
            return Path(self.args.output_dir or "") / "drafts"

        def validate_tensors(self, missing: list[str], unknown: list[str]) -> None:
            calls.append(f"missing {missing}, unknown {unknown}")

        def state_to_save(self, state_dict: State | None) -> State:
            calls.append("tensors")
            return {"weight": line.weight + 1}

    data = [{"x": torch.tensor([2.0]), "labels": torch.tensor([1.0])}] * 4
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, max_steps=2, per_device_train_batch_size=2, use_cpu=True,
            save_steps=2, logging_steps=2, report_to="none", disable_tqdm=True, seed=0,
            remove_unused_columns=False, learning_rate=1e-3,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            line = Line()
            trainer = Watched(line, arguments, train_dataset=data)
            trainer.remove_callback(PrinterCallback)
            assert trainer.model_accepts_loss_kwargs, "num_items_in_batch in forward goes unseen"
            trainer.train()
        checkpoint = Path(folder) / "drafts" / "checkpoint-2"
        assert state_of(checkpoint).global_step == 2, "the state of the run is not in its file"
        assert trainer.last_logged_step == 2 and not float(trainer.unlogged_loss)
        trained = line.weight.item()
        trainer.load_weights(checkpoint)
        assert abs(line.weight.item() - trained - 1) < 1e-6, "other weights were saved"
        assert not (checkpoint / TRAINING_ARGS_NAME).exists()
    expected = [
        "accelerator", "sampler", "step 1", "log 1", "step 2", "log 2", "tensors", "saved", "log 2",
        "missing [], unknown []",
    ]  # fmt: skip
    assert calls == expected, f"a run called {calls} instead of {expected}"


def _check_numbered_cpu() -> None:
    import io

    file = io.BytesIO()
    torch.save(torch.ones(2), file)
    file.seek(0)
    read = torch.load(file, map_location=torch.device("cpu:0"), weights_only=True)
    assert read.device.type == "cpu" and read.sum() == 2, "a file is read to another place"


CONTRACTS = (
    Contract(
        "torch",
        "2.11",
        "register_package lets torch.load read a file to cpu:0, where several CPU processes of "
        "older Trainers put their optimisers",
        ("torch.serialization:register_package(priority, tagger, deserializer)",),
        check=_check_numbered_cpu,
    ),
    Contract(
        "transformers",
        "5.17",
        "Trainer makes its accelerator in create_accelerator_and_postprocess, takes its order from "
        "_get_train_sampler, and then once a step calls _get_grad_norm before the optimiser and "
        "_maybe_log_save_evaluate after it; checkpoints go through _save_checkpoint, "
        "_get_output_dir and _save, and come back through _load_from_checkpoint, which calls "
        "_issue_warnings_after_load, _load_optimizer_and_scheduler and _load_rng_state; losses are "
        "summed in _tr_loss since step _globalstep_last_logged",
        (
            "transformers:Trainer.create_accelerator_and_postprocess",
            "transformers:Trainer._get_train_sampler(train_dataset)",
            "transformers:Trainer._get_grad_norm(model, grad_norm)",
            "transformers:Trainer._maybe_log_save_evaluate",
            "transformers:Trainer._save_checkpoint(model, trial)",
            "transformers:Trainer._get_output_dir(trial)",
            "transformers:Trainer._save(output_dir, state_dict)",
            "transformers:Trainer._load_from_checkpoint(resume_from_checkpoint, model)",
            "transformers:Trainer._load_optimizer_and_scheduler(checkpoint)",
            "transformers:Trainer._load_rng_state(checkpoint)",
            "transformers:Trainer._issue_warnings_after_load(load_result)",
            "transformers:Trainer.get_batch_samples(epoch_iterator, num_batches, device)",
            "transformers:Trainer.get_optimizer_cls_and_kwargs(args)",
            "transformers:Trainer.compute_loss(model, inputs, return_outputs, num_items_in_batch)",
            "transformers:Trainer.floating_point_ops(inputs)",
            "transformers:Trainer.create_optimizer(model)",
            "transformers:Trainer.log(logs, start_time)",
            "transformers.trainer:TRAINER_STATE_NAME",
            "transformers.trainer:TRAINING_ARGS_NAME",
        ),
        check=_check_steps,
    ),
)
