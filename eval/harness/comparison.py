"""Tasks of lm-evaluation-harness before and after: the same documents to both, in pairs."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wings.eval.bootstrap import Estimate, bootstrap
from wings.eval.comparison import plain, points
from wings.eval.forest import Line, forest
from wings.eval.samples import SAMPLES, Sample
from wings.eval.score import Score
from wings.eval.section import Section
from wings.eval.table import spelled

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

    def worth(self, leaves: Sequence[str], metric: str) -> tuple[list[float], list[float]]:
        """What every document of some tasks is worth, before and after."""
        before, after = (
            [x for leaf in leaves for x in of[leaf].metrics[metric]]
            for of in (self.before, self.after)
        )
        return before, after

    def line(self, name: str, leaves: Sequence[str], metric: str) -> Line:
        """Both scores and their paired difference."""
        before, after = self.worth(leaves, metric)
        scores = (Score(sum(before), len(before)), Score(sum(after), len(after)))
        return Line(name, *scores, self.difference(before, after))

    def difference(self, before: Sequence[float], after: Sequence[float]) -> Estimate:
        """After minus before, in points."""
        change = [100.0 * (b - a) for a, b in zip(before, after, strict=True)]
        return bootstrap(change, seed=self.seed)

    def changes(self, leaves: Sequence[str], metric: str) -> tuple[int, int]:
        """How many documents were lost and how many won."""
        pairs = list(zip(*self.worth(leaves, metric), strict=True))
        return sum(a < b for b, a in pairs), sum(a > b for b, a in pairs)

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
        right = tuple(
            bool(of.metrics) and next(iter(of.metrics.values()))[number] == 1
            for of in (before, after)
        )
        turns = [("user", prompt, [])]
        return Sample(leaf, turns, target, said, after.said[number][2], right)

    def to_dict(self) -> dict[str, Any]:
        """All figures: of what was asked for, and of every task of a group."""
        leaves = [(f"{x}, {m}", (x,), m) for x in self.before for m in self.before[x].metrics]
        names = ("before", "after")
        documents = {name: dict(zip(names, self.worth(*of), strict=True)) for name, *of in leaves}
        return {
            "rows": {row[0]: self.figures(*row) for row in self.rows},
            "tasks": {row[0]: self.figures(*row) for row in leaves},
            "documents": documents,
        }

    def figures(self, name: str, leaves: Sequence[str], metric: str) -> dict[str, Any]:
        """Both scores, the difference, and what was lost and won."""
        line = self.line(name, leaves, metric)
        lost, won = self.changes(leaves, metric)
        return {
            "before": plain(line.before),
            "after": plain(line.after),
            "difference": line.change.to_dict(),
            "lost": lost,
            "won": won,
        }

    def section(self) -> Section:
        """As a part of a report."""
        rows, lines = [("", "n", "LLM", "model", "difference", "-/+")], []
        for name, leaves, metric in self.rows:
            line = self.line(name, leaves, metric)
            turned = "{}/{}".format(*self.changes(leaves, metric))
            scores = (str(line.before.total), spelled(line.before), spelled(line.after))
            rows.append((name, *scores, points(line.change), turned))
            lines.append(line)
        return Section(self.title, SENTENCE, rows, forest(lines) if lines else None)
