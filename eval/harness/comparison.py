"""Compares two models on tasks of lm-evaluation-harness, document by document."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wings.eval.compare.paired import PairedScores, paired_plot, paired_table
from wings.eval.report.report import SAMPLES, Sample, Section

SENTENCE = (
    "Tasks of lm-evaluation-harness as its own command line asks them (no chat template), the same "
    "documents to both. Percent of a task's own metric, the mean over documents, with Wilson's "
    "95% intervals; the difference is paired, document by document, with a bootstrap interval; "
    "-/+ counts the documents that were lost and won. A group counts each document once."
)


@dataclass(frozen=True)
class TaskResult:
    """One model's result in one task.

    Attributes:
        metrics: by metric, the score of every document, 0 to 1.
        left_out: metrics that are not a mean over documents.
        samples: some documents by number: prompt, target and prediction.
    """

    metrics: dict[str, list[float]]
    left_out: Sequence[str]
    samples: dict[int, tuple[str, str, str]]

    def is_right(self, number: int) -> bool:
        """True if a document has the full score in the first metric."""
        return bool(self.metrics) and next(iter(self.metrics.values()))[number] == 1


@dataclass(frozen=True)
class TaskComparison:
    """Both models' results in all tasks.

    Attributes:
        leaves: the tasks of each requested task or group.
        before: the LLM's, by task.
        after: the model's.
        seed: of the bootstrap and of the samples.
    """

    leaves: dict[str, tuple[str, ...]]
    before: dict[str, TaskResult]
    after: dict[str, TaskResult]
    seed: int = 0

    title = "Tasks"

    def paired(self, leaves: Sequence[str], metric: str) -> PairedScores:
        """Scores of every document of some tasks, before and after."""
        before, after = (
            [score for leaf in leaves for score in results[leaf].metrics[metric]]
            for results in (self.before, self.after)
        )
        return PairedScores(before, after, self.seed)

    @property
    def requested(self) -> dict[str, PairedScores]:
        """The paired scores of what was requested, by name and metric.

        A group is pooled if its tasks have the same metrics; else each task is listed.
        """
        named = {}
        for name, leaves in self.leaves.items():
            metrics = [tuple(self.before[leaf].metrics) for leaf in leaves]
            parts = [(name, leaves)] if len(set(metrics)) == 1 else [(x, (x,)) for x in leaves]
            for part, tasks in parts:
                for metric in self.before[tasks[0]].metrics:
                    named[f"{part}, {metric}"] = self.paired(tasks, metric)
        return named

    @property
    def notes(self) -> list[str]:
        """A sentence on the metrics that are not shown, if any."""
        left_out = [
            f"{metric} of {leaf}"
            for leaf, result in self.before.items()
            for metric in result.left_out
        ]
        if not left_out:
            return []
        return [f"Metrics that are not a mean over documents are skipped: {', '.join(left_out)}."]

    def samples(self) -> list[Sample]:
        """Random documents of all tasks with both answers."""
        every = [(leaf, n) for leaf, result in self.before.items() for n in result.samples]
        drawn = random.Random(self.seed).sample(range(len(every)), min(SAMPLES, len(every)))
        return [self._sample(*every[n]) for n in sorted(drawn)]

    def _sample(self, leaf: str, number: int) -> Sample:
        before, after = self.before[leaf], self.after[leaf]
        prompt, target, prediction = before.samples[number]
        right = before.is_right(number), after.is_right(number)
        turns: list[tuple[str, str, list]] = [("user", prompt, [])]
        return Sample(leaf, turns, target, prediction, after.samples[number][2], right)

    def to_dict(self) -> dict[str, Any]:
        """All figures: of what was requested, and of every single task, for JSON."""
        tasks = {
            f"{leaf}, {metric}": self.paired((leaf,), metric)
            for leaf, result in self.before.items()
            for metric in result.metrics
        }
        return {
            "rows": {name: paired.to_dict() for name, paired in self.requested.items()},
            "tasks": {name: paired.to_dict() for name, paired in tasks.items()},
            "documents": {
                name: {"before": paired.before, "after": paired.after}
                for name, paired in tasks.items()
            },
        }

    def section(self) -> Section:
        """The report's section."""
        named = self.requested
        figure = paired_plot(named) if named else None
        return Section(self.title, SENTENCE, paired_table(named), figure)
