"""Shared settings of all measurements: processes, cache, batch sizes and progress."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from wings.errors import WingsError

from .fingerprint import fingerprint, item_fingerprint
from .generate import answer_items, batch_by_length
from .items import Item
from .loglikelihood import likeliest_choices
from .models import EvalModel
from .processes import Processes
from .result_cache import ResultCache

LIKELIHOOD = "likelihood"  # the scoring of items whose choices are ranked instead of generated
ERROR = "error"  # no fingerprint
T = TypeVar("T")
ProgressCallback = Callable[[str, int, int], None]  # name, done, total


def no_progress(name: str, done: int, total: int) -> None:
    """Shows no progress."""


@dataclass(frozen=True)
class EvalRunner:
    """Settings and shared state of an evaluation.

    Attributes:
        processes: that share the work.
        cache: results of finished batches.
        batch_size: conversations a batch.
        max_new_tokens: longest answer, in tokens.
        seed: of the bootstrap and of random samples.
        progress: called with a measurement's name, the items done and their total.
    """

    processes: Processes
    cache: ResultCache
    batch_size: int = 64
    max_new_tokens: int = 32
    seed: int = 0
    progress: ProgressCallback = field(default=no_progress)

    def compute(
        self,
        name: str,
        batches: Sequence[Sequence[str]],
        function: Callable[[Sequence[str]], dict[str, Any]],
    ) -> dict[str, Any]:
        """Results of all keys, computed batch by batch; all processes must call it.

        Batches are divided among the processes, and what is cached is not computed again.

        Args:
            name: for the progress.
            batches: of cache keys.
            function: maps keys of one batch to their results.

        Raises:
            WingsError: of any process. It is raised after gathering, so that none waits forever.
        """
        mine = self.processes.share(batches)
        done, total = 0, sum(map(len, mine))
        self.progress(name, 0, total)
        results: dict[str, Any] = {}
        try:
            for batch in mine:
                if missing := [key for key in batch if key not in self.cache]:
                    self.cache.add(function(missing))
                results |= {key: self.cache[key] for key in batch}
                done += len(batch)
                self.progress(name, done, total)
        except WingsError as error:
            results[ERROR] = str(error)
        results = self.processes.gather(results)
        if ERROR in results:
            raise WingsError(results[ERROR])
        return results

    def compute_items(
        self,
        name: str,
        items: Sequence[T],
        keys: Sequence[str],
        function: Callable[[list[T]], Sequence[Any]],
        order: Callable[[list[T]], Sequence[Sequence[int]]],
    ) -> list[Any]:
        """The result of each item, in the order of the items; see `compute`.

        Args:
            name: for the progress.
            items: [N] to measure.
            keys: [N] their cache keys; items with equal keys are measured once.
            function: maps items of one batch to their results.
            order: maps the different items to batches of their indices.

        Raises:
            WingsError: see `compute`.
        """
        unique = dict(zip(keys, items, strict=True))
        names = list(unique)

        def measure(batch: Sequence[str]) -> dict[str, Any]:
            return dict(zip(batch, function([unique[key] for key in batch]), strict=True))

        batches = [[names[n] for n in batch] for batch in order(list(unique.values()))]
        results = self.compute(name, batches, measure)
        return [results[key] for key in keys]

    def answers(self, model: EvalModel, items: Sequence[Item], name: str) -> list[str]:
        """A model's greedy answers, or likeliest choices, in the order of the items.

        Batches are formed before they are divided among the processes. So the number of processes
        does not change a model's input.
        """
        settings = (model.fingerprint, self.max_new_tokens, self.processes.device.type)
        keys = [
            fingerprint("answer", *settings, item_fingerprint(item), *_choices(item))
            for item in items
        ]
        # Questions about pictures are often equal once the pictures are removed.
        return self.compute_items(
            name, items, keys, lambda batch: self._predict(model, batch),
            lambda different: batch_by_length(different, self.batch_size),
        )  # fmt: skip

    def _predict(self, model: EvalModel, items: Sequence[Item]) -> list[str]:
        """The answers to one batch: generated, or the likeliest choice."""
        predictions = dict.fromkeys(range(len(items)), "")
        ranked = [n for n, item in enumerate(items) if item.scoring == LIKELIHOOD]
        generated = [n for n in predictions if n not in ranked]
        if generated:
            answers = answer_items(
                model.model,
                model.processor,
                [items[n] for n in generated],
                batch_size=len(generated),
                max_new_tokens=self.max_new_tokens,
            )
            predictions |= zip(generated, answers, strict=True)
        if ranked:
            chosen = likeliest_choices(
                model.model,
                model.processor,
                [items[n] for n in ranked],
                batch_size=self.batch_size,
            )
            predictions |= zip(ranked, chosen, strict=True)
        return list(predictions.values())


def _choices(item: Item) -> tuple[str, ...]:
    """The parts of the cache key that only ranked choices depend on."""
    return (LIKELIHOOD, *item.choices) if item.scoring == LIKELIHOOD else ()
