"""Evaluation while training: losses on held-out records, and when forgetting has gone too far."""

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
from wings.train.data.dataset import Conversations
from wings.train.loss import asked
from wings.train.recipe import Evaluate, Recipe

# What trackers know an evaluation by: they write `eval/NAME/loss` of it.
PREFIX = "eval_"


class Share(Dataset):
    """One rank's part of a held-out set.

    Whole batches are dealt out in turns, and every rank gets as many: a rank that has fewer records
    repeats one without labels, so that all take the same steps together. A record that cannot be
    used is in the same way there without labels.
    """

    def __init__(self, data: Conversations, size: int, rank: int, ranks: int) -> None:
        self.data = data
        rounds = -(-len(data) // (size * ranks))
        first = [(turn * ranks + rank) * size for turn in range(rounds)]
        self.numbers = [start + n for start in first for n in range(size)]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> dict[str, Any]:
        number = self.numbers[place]
        is_there = number < len(self.data)
        sample = self.data[number if is_there else 0]
        if is_there and "skipped" not in sample:
            return sample
        sample = {**sample, "labels": torch.full_like(sample["labels"], -100)}
        if not is_there:
            sample.pop("skipped", None)
        return sample


class Evaluation:
    """The held-out sets of a recipe.

    Args:
        recipe: one with `evaluate`.
        processor: encodes the records.
        collate: makes a batch of samples.
    """

    def __init__(self, recipe: Recipe, processor: WingsProcessor, collate: Callable) -> None:
        assert recipe.evaluate is not None
        self.settings: Evaluate = recipe.evaluate
        self.workers, self.collate = recipe.workers, collate
        self.skipped: dict[tuple[str, int], str] = {}
        names = dict.fromkeys(source.name for source in self.settings.data)
        self.sets = {
            name: Conversations(
                [source for source in self.settings.data if source.name == name],
                processor,
                recipe.max_length,
                recipe.on_bad_record,
            )
            for name in names
        }

    def is_due(self, state: TrainerState) -> bool:
        """Whether a run that stands here is to be evaluated and has not been."""
        step = state.global_step
        if step % self.settings.every and step < state.max_steps:
            return False
        return all(entry["step"] != step for entry in evaluations(state.log_history))

    def figures(
        self,
        model: nn.Module,
        accelerator: Accelerator,
        size: int,
        history: Sequence[dict[str, float]],
    ) -> dict[str, float]:
        """`eval_NAME/loss`, a mean over all trained tokens of a set, and `eval_NAME/rise`.

        Nothing of the training is touched: no random number is drawn and no gradient kept.

        Args:
            model: as it is trained, wrapped or sharded; left in evaluation mode.
            accelerator: of the run; every rank must come here.
            size: records of a forward.
            history: what was logged before; a rise is counted from its first evaluation.

        Raises:
            WingsError: a set of which no record can be used.
        """
        model.eval()
        rank, ranks = accelerator.process_index, accelerator.num_processes
        mine = {
            name: self._total(name, model, Share(data, size, rank, ranks), size, accelerator.device)
            for name, data in self.sets.items()
        }
        everyone, before = gather_object([mine]), evaluations(history)
        figures: dict[str, float] = {}
        for name in self.sets:
            total = sum(totals[name][0] for totals in everyone)
            tokens = sum(totals[name][1] for totals in everyone)
            if not tokens:
                raise WingsError(f"evaluate.data: no record of {name!r} can be used.")
            loss = total / tokens
            start = before[0][loss_of(name)] if before else loss
            figures |= {loss_of(name): loss, rise_of(name): loss - start}
        return figures

    def reason(self, history: Sequence[dict[str, float]]) -> str | None:
        """Why a run with this history ends early, or None; by its last evaluation alone."""
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
        self, name: str, model: nn.Module, share: Share, size: int, device: torch.device
    ) -> tuple[float, int]:
        """The sum of the losses of all trained tokens of a share, and their number."""
        # With a generator of its own: a loader draws a seed for its workers.
        loader = DataLoader(
            share, size, collate_fn=self.collate, num_workers=self.workers,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        losses, tokens = [], 0
        for batch in loader:
            skipped = batch.pop("skipped", ())
            self.skipped |= {(name, number): sentence for number, sentence in skipped}
            tokens += int((batch["labels"][:, 1:] != -100).sum())
            batch = send_to_device(batch, device)
            wanted = asked(batch["labels"])
            # One item to divide by: the sum, which the loss function keeps apart from a mean.
            out = model(**batch, **wanted, num_items_in_batch=1, use_cache=False)
            losses.append(out.loss.float())
        return float(torch.stack(losses).double().cpu().sum()), tokens


def evaluations(history: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """Those entries of a log that are evaluations, oldest first."""
    return [entry for entry in history if any(name.startswith(PREFIX) for name in entry)]


def renamed(entry: dict[str, float]) -> dict[str, float]:
    """An evaluation with names as people read them: `eval/NAME/loss`."""
    return {
        f"eval/{name.removeprefix(PREFIX)}" if name.startswith(PREFIX) else name: value
        for name, value in entry.items()
    }


def loss_of(name: str) -> str:
    """The figure that holds the loss on a held-out set."""
    return f"{PREFIX}{name}/loss"


def rise_of(name: str) -> str:
    """The figure that holds how far that loss lies above what it was at the start."""
    return f"{PREFIX}{name}/rise"
