"""Tasks of lm-evaluation-harness before and after: the same documents to both, in pairs."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wings.eval.compare.paired import HEADERS, Paired
from wings.eval.compare.paired_plot import paired_plot
from wings.eval.report.samples import SAMPLES, Sample
from wings.eval.report.section import Section

SENTENCE = (
    "Tasks of lm-evaluation-harness as its own command line asks them (no chat template), the same "
    "documents to both. Percent of a task's own metric, the mean over documents, with Wilson's "
    "95% intervals; the difference is paired, document by document, with a bootstrap interval; "
    "-/+ counts the documents that were lost and won. A group counts each document once."
)


@dataclass(frozen=True)
class TaskResult:
    """What one model came to in one task.

    Attributes:
        metrics: of each metric what every document was worth, 0 to 1.
        left_out: metrics that are no mean over documents.
        said: some documents by number: prompt, target and what was said.
    """

    metrics: dict[str, list[float]]
    left_out: Sequence[str]
    said: dict[int, tuple[str, str, str]]

    def is_right(self, number: int) -> bool:
        """Whether a document is worth all of the first metric."""
        return bool(self.metrics) and next(iter(self.metrics.values()))[number] == 1


@dataclass(frozen=True)
class TaskComparison:
    """Both models' results of all tasks.

    Attributes:
        leaves: the tasks of each name that was asked for.
        before: the LLM's, by task.
        after: the model's.
        seed: of the bootstrap, and of the samples.
    """

    leaves: dict[str, tuple[str, ...]]
    before: dict[str, TaskResult]
    after: dict[str, TaskResult]
    seed: int = 0

    title = "Tasks"

    @property
    def rows(self) -> list[tuple[str, tuple[str, ...], str]]:
        """What a row counts: its name, its tasks and its metric.

        A group is one row a metric, where its tasks have the same ones, else a row each.
        """
        found = []
        for name, leaves in self.leaves.items():
            metrics = [tuple(self.before[leaf].metrics) for leaf in leaves]
            parts = [(name, leaves)] if len(set(metrics)) == 1 else [(x, (x,)) for x in leaves]
            for part, own in parts:
                for metric in self.before[own[0]].metrics:
                    found.append((f"{part}, {metric}", own, metric))
        return found

    def paired(self, leaves: Sequence[str], metric: str) -> Paired:
        """What every document of some tasks is worth, before and after."""
        before, after = (
            [x for leaf in leaves for x in of[leaf].metrics[metric]]
            for of in (self.before, self.after)
        )
        return Paired(before, after, self.seed)

    @property
    def notes(self) -> list[str]:
        """What is not shown, and why."""
        left = [
            f"{metric} of {leaf}"
            for leaf, result in self.before.items()
            for metric in result.left_out
        ]
        if not left:
            return []
        return [
            f"left out of the tasks: {', '.join(left)}, no mean of what single documents are worth"
        ]

    @property
    def samples(self) -> list[Sample]:
        """Documents side by side, drawn by lot from all tasks."""
        every = [(leaf, n) for leaf, result in self.before.items() for n in result.said]
        drawn = random.Random(self.seed).sample(range(len(every)), min(SAMPLES, len(every)))
        return [self._sample(*every[n]) for n in sorted(drawn)]

    def _sample(self, leaf: str, number: int) -> Sample:
        before, after = self.before[leaf], self.after[leaf]
        prompt, target, said = before.said[number]
        right = before.is_right(number), after.is_right(number)
        turns: list[tuple[str, str, list]] = [("user", prompt, [])]
        return Sample(leaf, turns, target, said, after.said[number][2], right)

    def to_dict(self) -> dict[str, Any]:
        """All figures: of what was asked for, and of every task of a group."""
        tasks = {
            f"{leaf}, {metric}": self.paired((leaf,), metric)
            for leaf, result in self.before.items()
            for metric in result.metrics
        }
        return {
            "rows": {
                name: self.paired(leaves, metric).to_dict() for name, leaves, metric in self.rows
            },
            "tasks": {name: paired.to_dict() for name, paired in tasks.items()},
            "documents": {
                name: {"before": paired.before, "after": paired.after}
                for name, paired in tasks.items()
            },
        }

    def section(self) -> Section:
        """As a part of a report."""
        rows = {name: self.paired(leaves, metric) for name, leaves, metric in self.rows}
        table = [HEADERS, *(paired.row(name) for name, paired in rows.items())]
        lines = [paired.line(name) for name, paired in rows.items()]
        return Section(self.title, SENTENCE, table, paired_plot(lines) if lines else None)
