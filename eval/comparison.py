"""The same items before and after: two accuracies, and the paired difference between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .bootstrap import Estimate, bootstrap
from .forest import Line, forest
from .items import Item
from .mark import mark
from .score import Score
from .section import Section
from .table import spelled

ALL = "all"


@dataclass(frozen=True)
class Comparison:
    """Answers of two models to the same items.

    Attributes:
        title: what was asked.
        sentence: how each of the two was asked.
        items: the questions, as the model was asked them.
        before: what the LLM said; empty where it was not asked.
        after: what the model said.
        seed: of the bootstrap.
    """

    title: str
    sentence: str
    items: Sequence[Item]
    before: Sequence[str]
    after: Sequence[str]
    seed: int = 0

    @property
    def kinds(self) -> list[str]:
        """Kinds of items in the order in which they first appear; first `all` where there are
        several.
        """
        kinds = list(dict.fromkeys(item.kind for item in self.items))
        return kinds if len(kinds) == 1 else [ALL, *(kind for kind in kinds if kind != ALL)]

    def right(self, said: Sequence[str], kind: str) -> list[float]:
        """What each answer to an item of a kind is worth, from 0 to 1."""
        pairs = zip(self.items, said, strict=True)
        return [mark(item, text) for item, text in pairs if kind in (ALL, item.kind)]

    def scores(self, kind: str) -> tuple[Score, Score]:
        """Before and after, of a kind."""
        before, after = (self.right(said, kind) for said in (self.before, self.after))
        return Score(sum(before), len(before)), Score(sum(after), len(after))

    def difference(self, kind: str) -> Estimate:
        """After minus before, in points, with its interval over the items as pairs."""
        before, after = (self.right(said, kind) for said in (self.before, self.after))
        change = [100.0 * (b - a) for a, b in zip(before, after, strict=True)]
        return bootstrap(change, seed=self.seed)

    def changes(self, kind: str) -> tuple[int, int]:
        """How many items were lost (worth less after than before) and how many were won."""
        before, after = (self.right(said, kind) for said in (self.before, self.after))
        pairs = list(zip(before, after, strict=True))
        return sum(a < b for b, a in pairs), sum(a > b for b, a in pairs)

    def to_dict(self) -> dict[str, Any]:
        """All figures, and every item with both answers."""
        kinds = {}
        for kind in self.kinds:
            before, after = self.scores(kind)
            lost, won = self.changes(kind)
            kinds[kind] = {
                "before": plain(before),
                "after": plain(after),
                "difference": self.difference(kind).to_dict(),
                "lost": lost,
                "won": won,
            }
        answers = [
            {
                "kind": item.kind,
                "messages": list(item.messages),
                "answer": item.answer,
                "before": before,
                "after": after,
                "right": [mark(item, said) for said in (before, after)],
            }
            for item, before, after in zip(self.items, self.before, self.after, strict=True)
        ]
        return {"kinds": kinds, "answers": answers}

    def section(self) -> Section:
        """As a part of a report."""
        rows = [("", "n", "LLM", "model", "difference", "-/+")]
        lines = []
        for kind in self.kinds:
            before, after = self.scores(kind)
            change = self.difference(kind)
            turned = "{}/{}".format(*self.changes(kind))
            scores = (str(after.total), spelled(before), spelled(after))
            rows.append((kind, *scores, points(change), turned))
            lines.append(Line(kind, before, after, change))
        return Section(self.title, self.sentence, rows, forest(lines))


def plain(score: Score) -> dict[str, Any]:
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
