"""Evaluation during training: losses on held-out records, and early stopping on a rise."""

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import TrainerState

from wings.errors import WingsError
from wings.processing.processor import WingsProcessor
from wings.sense import Words
from wings.train.data.after_item import TextAfterItem, any_item, choose_conversations
from wings.train.data.collator import loss_tokens
from wings.train.data.dataset import ConversationDataset
from wings.train.kl_to_base import BaseLLM, kl_sum
from wings.train.recipe import HeldOutSource, Recipe
from wings.train.recipe_parts import AFTER_ITEMS, DEFAULT_RISE, EarlyStop, text_after
from wings.upstream.loader import batches_of

from .answers import Question, choose_questions

# KL in nats per token. In the project's experiments, methods below 0.35 kept the answers after an
# image, and one at 2.6 lost two thirds of them.
FAR_FROM_LLM = 0.5
HeldOutSet = ConversationDataset | TextAfterItem

# Trackers recognise an evaluation by it and write `eval/NAME/loss`.
PREFIX = "eval_"


@dataclass
class Totals:
    """Sums over the trained tokens of a part of a held-out set.

    Attributes:
        loss: of their losses, in nats.
        tokens: their number.
        kl: of KL(LLM || model), in nats; None if it is not measured.
    """

    loss: float = 0.0
    tokens: int = 0
    kl: float | None = None

    def __add__(self, other: "Totals") -> "Totals":
        kl = None if self.kl is None or other.kl is None else self.kl + other.kl
        return Totals(self.loss + other.loss, self.tokens + other.tokens, kl)


class RankShard(Dataset):
    """One rank's part of a held-out set.

    Ranks take whole batches in turns and get equally many. A rank with fewer records repeats one
    without labels, so that all ranks take the same steps. Unusable records have no labels either.
    """

    def __init__(self, data: HeldOutSet, size: int, rank: int, ranks: int) -> None:
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
        sample = without_labels(sample)
        if not exists:
            sample.pop("skipped", None)
        return sample


def without_labels(sample: dict[str, Any]) -> dict[str, Any]:
    """The sample without labels, also in `kl_mask` and `base_inputs`."""
    sample = {**sample, "labels": torch.full_like(sample["labels"], -100)}
    if "kl_mask" in sample:
        sample["kl_mask"] = torch.zeros_like(sample["kl_mask"])
        sample["base_inputs"] = without_labels(sample["base_inputs"])
    return sample


class HeldOutEvaluation:
    """The held-out sets of a run.

    Args:
        recipe: the recipe.
        sets: by name.
        questions: that the model answers at every evaluation.
        collate: joins samples to a batch.
    """

    def __init__(
        self,
        recipe: Recipe,
        sets: dict[str, HeldOutSet],
        questions: Sequence[Question],
        collate: Callable,
    ) -> None:
        self.settings, self.sets, self.questions = recipe.evaluate, sets, questions
        self.workers, self.collate = recipe.workers, collate
        self.of_loss = {"loss_chunk": recipe.loss_chunk} if recipe.loss_chunk else {}
        self.skipped: dict[tuple[str, int], str] = {}
        self.stop = _stop_of(recipe, self.after_items)

    @property
    def after_items(self) -> list[str]:
        """Names of the sets with text after items, that after images first."""
        return [name for name in AFTER_ITEMS if name in self.sets]

    def describe(self, steps: int, why_text_is_kept: str | None) -> str:
        """Lines on what is evaluated when, and on a stop that cannot end the run.

        Args:
            steps: of the run.
            why_text_is_kept: why text alone keeps the LLM's logits, if it does.
        """
        sets = ", ".join(f"{name} ({len(data)} records)" for name, data in self.sets.items())
        every = self.settings.interval(steps)
        lines = [f"evaluating {sets} every {every:,} steps" if every > 1 else f"evaluating {sets}"]
        stop = self.stop
        if stop is not None and why_text_is_kept and self._is_text(stop.name):
            lines.append(
                f"warning: evaluate.stop cannot end the run, as {why_text_is_kept} the loss on"
                f" {stop.name} cannot rise; name {(self.after_items or AFTER_ITEMS)[0]} instead"
            )
        elif stop is not None:
            lines.append(
                f"the run ends if the loss on {stop.name} rises by more than {stop.rise:g} nats"
                " per token (evaluate.stop)"
            )
        return "\n".join(lines)

    def _is_text(self, name: str) -> bool:
        """True if no record of a set that can be read has an item."""
        data = self.sets.get(name)
        return isinstance(data, ConversationDataset) and not any_item(data)

    def is_due(self, state: TrainerState) -> bool:
        """True if a run in this state should be evaluated and was not yet."""
        step = state.global_step
        if step % self.settings.interval(state.max_steps) and step < state.max_steps:
            return False
        return all(entry["step"] != step for entry in evaluations(state.log_history))

    def run(
        self,
        model: nn.Module,
        llm: BaseLLM,
        accelerator: Accelerator,
        size: int,
        history: Sequence[dict[str, float]],
    ) -> dict[str, float]:
        """`eval_NAME/loss`, a mean over all trained tokens of a set, and `eval_NAME/rise`.

        Text after items also has `eval_NAME/kl`, if the LLM is frozen. Training state is
        untouched: no random number is drawn and no gradient kept.

        Args:
            model: the model in training, wrapped or sharded; left in evaluation mode.
            llm: the LLM inside it.
            accelerator: accelerator of the run; every rank must call this.
            size: records per forward.
            history: earlier log entries; the rise counts from the first evaluation.

        Raises:
            WingsError: no record of a set can be used.
        """
        model.eval()
        rank, ranks = accelerator.process_index, accelerator.num_processes
        mine = {
            name: self._totals(name, model, llm, RankShard(data, size, rank, ranks), size)
            for name, data in self.sets.items()
        }
        everyone, before = gather_object([mine]), evaluations(history)
        metrics: dict[str, float] = {}
        for name in self.sets:
            total = functools.reduce(operator.add, (totals[name] for totals in everyone))
            if not total.tokens:
                raise WingsError(
                    f"evaluate.data: no record of {name!r} can be used; check the files."
                )
            loss = total.loss / total.tokens
            start = before[0].get(loss_of(name), loss) if before else loss
            metrics |= {loss_of(name): loss, rise_of(name): loss - start}
            if total.kl is not None:
                metrics[kl_of(name)] = total.kl / total.tokens
        return metrics

    def reason(self, history: Sequence[dict[str, float]]) -> str | None:
        """Reason to end a run early after the last evaluation of its history, or None."""
        stop, done = self.stop, evaluations(history)
        if stop is None or not done or done[-1].get(rise_of(stop.name), 0) <= stop.rise:
            return None
        last = done[-1]
        by_default = " by default (stop: false turns it off)" if self.settings.stop is True else ""
        return (
            f"the loss on {stop.name} rose by {last[rise_of(stop.name)]:.4f} to"
            f" {last[loss_of(stop.name)]:.4f} by step {last['step']:,}, and evaluate.stop.rise is"
            f" {stop.rise:g}{by_default}"
        )

    def warning(self, history: Sequence[dict[str, float]]) -> str | None:
        """A sentence if the last evaluation found text after items far from the LLM's."""
        done = evaluations(history)
        found = {name: done[-1].get(kl_of(name), 0) if done else 0 for name in AFTER_ITEMS}
        worst = max(found, key=lambda name: found[name])
        kl, one = found[worst], Words.of(worst.removeprefix(text_after(""))).one
        if kl <= FAR_FROM_LLM:
            return None
        return (
            f"warning: text after {one} is {kl:.2f} nats per token from the LLM's; train with"
            " more text_turns that have the LLM's own answers, lower the learners' rates, or put a"
            " gate on the model with wings gate"
        )

    @torch.no_grad()
    def _totals(
        self, name: str, model: nn.Module, llm: BaseLLM, shard: RankShard, size: int
    ) -> Totals:
        """Sums over a shard."""
        # A separate generator, because a loader draws a seed for its workers.
        loader = DataLoader(
            shard, size, collate_fn=self.collate, num_workers=self.workers,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        tokens, has_kl = 0, False
        losses, divergences = [torch.zeros(())], [torch.zeros(())]
        with batches_of(loader) as batches:
            for batch in batches:
                skipped = batch.pop("skipped", ())
                self.skipped |= {(name, number): sentence for number, sentence in skipped}
                tokens += int((batch["labels"][:, 1:] != -100).sum())
                batch = send_to_device(batch, llm.accelerator.device)
                batch |= loss_tokens(batch["labels"], batch.get("kl_mask"))
                target = llm.target(model, batch) if "base_inputs" in batch else None
                # The KL reads all logits.
                batch |= self.of_loss if target is None else {}
                # num_items_in_batch=1 returns the sum of the losses.
                out = model(**batch, num_items_in_batch=1, use_cache=False)
                losses.append(out.loss.float())
                if target is not None:
                    has_kl = True
                    divergences.append(kl_sum(target, out.logits))
        loss, kl = (
            float(sum(part.double().cpu() for part in parts)) for parts in (losses, divergences)
        )
        return Totals(loss, tokens, kl if has_kl else None)


def _stop_of(recipe: Recipe, after_items: Sequence[str]) -> EarlyStop | None:
    stop = recipe.evaluate.stop
    if not isinstance(stop, bool):
        return stop
    is_default = stop and recipe.stage == "instruct" and after_items
    return EarlyStop(after_items[0], DEFAULT_RISE) if is_default else None


def held_out_evaluation(
    recipe: Recipe,
    processor: WingsProcessor,
    collate: Callable,
    training: ConversationDataset | None,
) -> HeldOutEvaluation | None:
    """The evaluation of a recipe: its held-out records, and text after items; None if neither.

    Args:
        recipe: the recipe.
        processor: encodes the records.
        collate: joins samples to a batch.
        training: the opened training data; None for data of another kind.
    """
    settings = recipe.evaluate

    def open_sources(sources: list[HeldOutSource]) -> ConversationDataset:
        return ConversationDataset(
            sources, processor, recipe.max_length, recipe.on_bad_record, limits=recipe.limits
        )

    names = dict.fromkeys(source.name for source in settings.data)
    sets: dict[str, HeldOutSet] = {
        name: open_sources([source for source in settings.data if source.name == name])
        for name in names
    }
    questions: list[Question] = []
    # Questions alone are no evaluation.
    has_sets = bool(settings.data or settings.text_after_image)
    count = max(settings.text_after_image, settings.answers) if has_sets else 0
    if count and training is not None:
        held_out = open_sources(settings.data) if settings.data else None
        talks = [
            choose_conversations(held_out, training, count, recipe.seed, sense)
            for sense in processor.senses
        ]
        questions = choose_questions(talks, settings.answers)
        for found in talks:
            pairs = TextAfterItem(
                found, settings.text_after_image, processor, recipe.max_length,
                bool(recipe.freeze_llm),
            )  # fmt: skip
            if len(pairs):
                sets[text_after(found.sense)] = pairs
    return HeldOutEvaluation(recipe, sets, questions, collate) if sets else None


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


def kl_of(name: str) -> str:
    """Name of the KL from the LLM on a held-out set."""
    return f"{PREFIX}{name}/kl"
