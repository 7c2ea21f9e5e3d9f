"""Accuracy of answers: counts by kind, percent, and Wilson's 95% interval."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from wings.eval.items import Item

from .score import score

Z = 1.96  # of a 95% interval


@dataclass(frozen=True)
class Accuracy:
    """`right` of `total` answers; `right` may be fractional, as scores are between 0 and 1.

    Attributes:
        right: sum of the scores.
        total: number of answers.
        known_interval: the 95% interval in percent, if answers depend on each other; None for
            Wilson's, which takes them as independent.
    """

    right: float
    total: int
    known_interval: tuple[float, float] | None = None

    @property
    def percent(self) -> float:
        """0 to 100."""
        return 100.0 * self.right / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval in percent."""
        if self.known_interval is not None:
            return self.known_interval
        share, n = self.right / self.total, self.total
        middle = share + Z * Z / (2 * n)
        half = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
        low, high = ((middle + sign * half) / (1 + Z * Z / n) for sign in (-1, 1))
        return 100.0 * max(0.0, low), 100.0 * min(1.0, high)

    @property
    def error_bar(self) -> list[list[float]]:
        """Lengths below and above the percentage, as matplotlib takes them."""
        low, high = self.interval
        # Rounding may put an end of the interval on the wrong side of 0 or 100.
        return [[max(0.0, self.percent - low)], [max(0.0, high - self.percent)]]

    def __add__(self, other: "Accuracy") -> "Accuracy":
        return Accuracy(self.right + other.right, self.total + other.total)

    def __str__(self) -> str:
        """`97.5 (94.6-98.9)`: percent and its interval."""
        low, high = self.interval
        return f"{self.percent:.1f} ({low:.0f}-{high:.0f})"

    def to_dict(self) -> dict[str, Any]:
        """Counts, percent and interval, for JSON."""
        return {
            "right": self.right,
            "total": self.total,
            "percent": self.percent,
            "interval": list(self.interval),
        }


def score_by_kind(items: Sequence[Item], predictions: Sequence[str]) -> dict[str, Accuracy]:
    """Accuracies by kind, in the order in which the kinds first appear."""
    accuracies: dict[str, Accuracy] = {}
    for item, prediction in zip(items, predictions, strict=True):
        right = Accuracy(score(item, prediction), 1)
        accuracies[item.kind] = accuracies.get(item.kind, Accuracy(0, 0)) + right
    return accuracies


def overall(accuracies: Iterable[Accuracy]) -> Accuracy:
    """All kinds together; each item counts once."""
    return sum(accuracies, Accuracy(0, 0))
