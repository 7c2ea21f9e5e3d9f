"""Evaluation during training: losses on held-out records, and early stopping on a rise."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import TrainerState

from wings.errors import WingsError
from wings.processing.processor import WingsProcessor
from wings.train.data.collator import loss_columns
from wings.train.data.dataset import ConversationDataset
from wings.train.recipe import Evaluate, Recipe

# Trackers recognise an evaluation by it and write `eval/NAME/loss`.
PREFIX = "eval_"


class RankShard(Dataset):
    """One rank's part of a held-out set.

    Ranks take whole batches in turns and get equally many. A rank with fewer records repeats one
    without labels, so that all ranks take the same steps. Unusable records have no labels either.
    """

    def __init__(self, data: ConversationDataset, size: int, rank: int, ranks: int) -> None:
        self.data = data
        rounds = -(-len(data) // (size * ranks))
        first = [(n * ranks + rank) * size for n in range(rounds)]
        self.numbers = [start + n for start in first for n in range(size)]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> dict[str, Any]:
        number = self.numbers[place]
        exists = number < len(self.data)
        sample = self.data[number if exists else 0]
        if exists and "skipped" not in sample:
            return sample
        sample = {**sample, "labels": torch.full_like(sample["labels"], -100)}
        if not exists:
            sample.pop("skipped", None)
        return sample


class HeldOutEvaluation:
    """The held-out sets of a recipe.

    Args:
        recipe: a recipe with `evaluate`.
        processor: encodes the records.
        collate: joins samples to a batch.
    """

    def __init__(self, recipe: Recipe, processor: WingsProcessor, collate: Callable) -> None:
        assert recipe.evaluate is not None
        self.settings: Evaluate = recipe.evaluate
        self.workers, self.collate = recipe.workers, collate
        self.skipped: dict[tuple[str, int], str] = {}
        names = dict.fromkeys(source.name for source in self.settings.data)
        self.sets = {
            name: ConversationDataset(
                [source for source in self.settings.data if source.name == name],
                processor,
                recipe.max_length,
                recipe.on_bad_record,
                limits=recipe.limits,
            )
            for name in names
        }

    def is_due(self, state: TrainerState) -> bool:
        """True if a run in this state should be evaluated and was not yet."""
        step = state.global_step
        if step % self.settings.every and step < state.max_steps:
            return False
        return all(entry["step"] != step for entry in evaluations(state.log_history))

    def run(
        self,
        model: nn.Module,
        accelerator: Accelerator,
        size: int,
        history: Sequence[dict[str, float]],
    ) -> dict[str, float]:
        """`eval_NAME/loss`, a mean over all trained tokens of a set, and `eval_NAME/rise`.

        Training state is untouched: no random number is drawn and no gradient kept.

        Args:
            model: the model in training, wrapped or sharded; left in evaluation mode.
            accelerator: accelerator of the run; every rank must call this.
            size: records per forward.
            history: earlier log entries; the rise counts from the first evaluation.

        Raises:
            WingsError: no record of a set can be used.
        """
        model.eval()
        rank, ranks = accelerator.process_index, accelerator.num_processes
        mine = {
            name: self._total(
                name, model, RankShard(data, size, rank, ranks), size, accelerator.device
            )
            for name, data in self.sets.items()
        }
        everyone, before = gather_object([mine]), evaluations(history)
        metrics: dict[str, float] = {}
        for name in self.sets:
            total = sum(totals[name][0] for totals in everyone)
            tokens = sum(totals[name][1] for totals in everyone)
            if not tokens:
                raise WingsError(
                    f"evaluate.data: no record of {name!r} can be used; check the files."
                )
            loss = total / tokens
            start = before[0][loss_of(name)] if before else loss
            metrics |= {loss_of(name): loss, rise_of(name): loss - start}
        return metrics

    def reason(self, history: Sequence[dict[str, float]]) -> str | None:
        """Reason to end a run early after the last evaluation of its history, or None."""
        stop, done = self.settings.stop, evaluations(history)
        if stop is None or not done or done[-1][rise_of(stop.name)] <= stop.rise:
            return None
        last = done[-1]
        return (
            f"the loss on {stop.name} rose by {last[rise_of(stop.name)]:.4f} to"
            f" {last[loss_of(stop.name)]:.4f} by step {last['step']:,}, and evaluate.stop.rise is"
            f" {stop.rise:g}"
        )

    @torch.no_grad()
    def _total(
        self, name: str, model: nn.Module, shard: RankShard, size: int, device: torch.device
    ) -> tuple[float, int]:
        """Sum of the losses of all trained tokens of a shard, and their number."""
        # A separate generator, because a loader draws a seed for its workers.
        loader = DataLoader(
            shard, size, collate_fn=self.collate, num_workers=self.workers,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        losses, tokens = [], 0
        for batch in loader:
            skipped = batch.pop("skipped", ())
            self.skipped |= {(name, number): sentence for number, sentence in skipped}
            tokens += int((batch["labels"][:, 1:] != -100).sum())
            batch = send_to_device(batch, device)
            wanted = loss_columns(batch["labels"])
            # num_items_in_batch=1 returns the sum of the losses.
            out = model(**batch, **wanted, num_items_in_batch=1, use_cache=False)
            losses.append(out.loss.float())
        return float(torch.stack(losses).double().cpu().sum()), tokens


def evaluations(history: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """Log entries of evaluations, oldest first."""
    return [entry for entry in history if any(name.startswith(PREFIX) for name in entry)]


def renamed(entry: dict[str, float]) -> dict[str, float]:
    """The entry with names as trackers show them: `eval/NAME/loss`."""
    return {
        f"eval/{name.removeprefix(PREFIX)}" if name.startswith(PREFIX) else name: value
        for name, value in entry.items()
    }


def loss_of(name: str) -> str:
    """Name of the loss on a held-out set."""
    return f"{PREFIX}{name}/loss"


def rise_of(name: str) -> str:
    """Name of the increase of that loss since the start."""
    return f"{PREFIX}{name}/rise"
