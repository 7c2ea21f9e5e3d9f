"""How well it was said: right answers, counted by kind, with the error that such a count has."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .items import Item

Z = 1.96  # a 95% interval


@dataclass(frozen=True)
class Score:
    """`right` of `total` answers."""

    right: int
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

    def __add__(self, other: "Score") -> "Score":
        return Score(self.right + other.right, self.total + other.total)


def normalise(text: str) -> str:
    """Without outer and doubled spaces and a final full stop; capitals count, as items ask for
    them.
    """
    return " ".join(text.split()).removesuffix(".").rstrip()


def is_right(said: str, answer: str) -> bool:
    """Whether the answer is the reference, word for word."""
    return normalise(said) == normalise(answer)


def mentions(said: str, answer: str) -> bool:
    """Whether `answer` stands in what was said, as whole words, whatever the capitals."""
    return re.search(rf"\b{re.escape(answer.lower())}\b", said.lower()) is not None


def is_answered(item: Item, said: str) -> bool:
    """Whether what was said is right by the item's own `match`."""
    test = mentions if item.match == "mention" else is_right
    return test(said, item.answer)


def score(items: Sequence[Item], answers: Sequence[str]) -> dict[str, Score]:
    """Scores by kind, in the order in which the kinds first appear."""
    scores: dict[str, Score] = {}
    for item, said in zip(items, answers, strict=True):
        right = Score(int(is_answered(item, said)), 1)
        scores[item.kind] = scores.get(item.kind, Score(0, 0)) + right
    return scores


def overall(scores: Iterable[Score]) -> Score:
    """All kinds together, each item counting once."""
    return sum(scores, Score(0, 0))
