"""How well it was said: right answers, counted by kind, with the error that such a count has."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wings.eval.items import Item

from .score import score

Z = 1.96  # a 95% interval


@dataclass(frozen=True)
class Accuracy:
    """`right` of `total` answers; an answer may be right in part."""

    right: float
    total: int

    @property
    def percent(self) -> float:
        """0 to 100."""
        return 100.0 * self.right / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval in percent: what another draw of items could have given."""
        share, n = self.right / self.total, self.total
        middle = share + Z * Z / (2 * n)
        half = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
        low, high = ((middle + sign * half) / (1 + Z * Z / n) for sign in (-1, 1))
        return 100.0 * max(0.0, low), 100.0 * min(1.0, high)

    def __add__(self, other: "Accuracy") -> "Accuracy":
        return Accuracy(self.right + other.right, self.total + other.total)


def score_by_kind(items: Sequence[Item], answers: Sequence[str]) -> dict[str, Accuracy]:
    """Scores by kind, in the order in which the kinds first appear."""
    scores: dict[str, Accuracy] = {}
    for item, said in zip(items, answers, strict=True):
        right = Accuracy(score(item, said), 1)
        scores[item.kind] = scores.get(item.kind, Accuracy(0, 0)) + right
    return scores


def overall(scores: Iterable[Accuracy]) -> Accuracy:
    """All kinds together, each item counting once."""
    return sum(scores, Accuracy(0, 0))
