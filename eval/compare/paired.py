"""What the same questions are worth to two models: two scores, and the difference as pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wings.eval.report.table import spelled
from wings.eval.scoring.accuracy import Accuracy

from .bootstrap import Estimate, bootstrap
from .paired_plot import Line

HEADERS: tuple[str, ...] = ("", "n", "LLM", "model", "difference", "-/+")


@dataclass(frozen=True)
class Paired:
    """Marks from 0 to 1 of every question, before and after; `seed` of the bootstrap."""

    before: Sequence[float]
    after: Sequence[float]
    seed: int = 0

    @property
    def scores(self) -> tuple[Accuracy, Accuracy]:
        """Before and after."""
        return Accuracy(sum(self.before), len(self.before)), Accuracy(
            sum(self.after), len(self.after)
        )

    @property
    def difference(self) -> Estimate:
        """After minus before, in points, with its interval over the questions as pairs."""
        pairs = zip(self.before, self.after, strict=True)
        return bootstrap([100.0 * (after - before) for before, after in pairs], seed=self.seed)

    @property
    def changes(self) -> tuple[int, int]:
        """How many questions were lost (worth less after than before) and how many were won."""
        pairs = list(zip(self.before, self.after, strict=True))
        return sum(a < b for b, a in pairs), sum(a > b for b, a in pairs)

    def to_dict(self) -> dict[str, Any]:
        """Both scores, the difference, and what was lost and won."""
        before, after = self.scores
        lost, won = self.changes
        return {
            "before": plain(before),
            "after": plain(after),
            "difference": self.difference.to_dict(),
            "lost": lost,
            "won": won,
        }

    def row(self, name: str) -> tuple[str, ...]:
        """Of a table under `HEADERS`."""
        before, after = self.scores
        turned = "{}/{}".format(*self.changes)
        scores = (str(before.total), spelled(before), spelled(after))
        return (name, *scores, points(self.difference), turned)

    def line(self, name: str) -> Line:
        """Of the plot."""
        return Line(name, *self.scores, self.difference)


def plain(score: Accuracy) -> dict[str, Any]:
    """A score with its percent and Wilson's interval."""
    return {
        "right": score.right,
        "total": score.total,
        "percent": score.percent,
        "interval": list(score.interval),
    }


def points(change: Estimate) -> str:
    """`-18.8 (-23.8, -13.8)`."""
    if change.low is None or change.high is None:
        return f"{change.value:+.1f}"
    return f"{change.value:+.1f} ({change.low:.1f}, {change.high:.1f})"
