"""The same items before and after: two accuracies, and the paired difference between them.

A question is an item, or the items of one circle: the same question with its choices moved on by
one from item to item, as in MMBench's circular evaluation (Liu et al. 2023, arXiv 2307.06281).
Such a question counts by its first item, and once more as circular: right if all its items are.
"""

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
CIRCULAR = "circular"
CIRCLES = (
    " A question that is asked several times, its choices moved on by one, counts by the first "
    "time, and as circular only if it is right each time."
)


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
    def questions(self) -> list[list[int]]:
        """The numbers of each question's items: one, or those of its circle."""
        found: dict[tuple[str, str], list[int]] = {}
        for number, item in enumerate(self.items):
            alone = ("", str(number))
            found.setdefault((item.kind, item.circle) if item.circle else alone, []).append(number)
        return list(found.values())

    @property
    def is_circular(self) -> bool:
        """Whether any question has several items."""
        return any(item.circle for item in self.items)

    @property
    def kinds(self) -> list[str]:
        """Kinds of items in the order in which they first appear; first `all` where there are
        several.
        """
        kinds = list(dict.fromkeys(item.kind for item in self.items))
        return kinds if len(kinds) == 1 else [ALL, *(kind for kind in kinds if kind != ALL)]

    def right(self, said: Sequence[str], kind: str, circular: bool = False) -> list[float]:
        """What the answers to each question of a kind are worth, from 0 to 1.

        Args:
            said: an answer to every item.
            kind: one of `kinds`.
            circular: the least that any item of a question is worth, not what its first is.
        """
        return [
            min(mark(self.items[n], said[n]) for n in (numbers if circular else numbers[:1]))
            for numbers in self.questions
            if kind in (ALL, self.items[numbers[0]].kind)
        ]

    def scores(self, kind: str, circular: bool = False) -> tuple[Score, Score]:
        """Before and after, of a kind."""
        before, after = (self.right(said, kind, circular) for said in (self.before, self.after))
        return Score(sum(before), len(before)), Score(sum(after), len(after))

    def difference(self, kind: str, circular: bool = False) -> Estimate:
        """After minus before, in points, with its interval over the questions as pairs."""
        before, after = (self.right(said, kind, circular) for said in (self.before, self.after))
        change = [100.0 * (b - a) for a, b in zip(before, after, strict=True)]
        return bootstrap(change, seed=self.seed)

    def changes(self, kind: str, circular: bool = False) -> tuple[int, int]:
        """How many questions were lost (worth less after than before) and how many were won."""
        before, after = (self.right(said, kind, circular) for said in (self.before, self.after))
        pairs = list(zip(before, after, strict=True))
        return sum(a < b for b, a in pairs), sum(a > b for b, a in pairs)

    def figures(self, circular: bool) -> dict[str, Any]:
        """Of every kind both scores, the difference, and what was lost and won."""
        found = {}
        for kind in self.kinds:
            before, after = self.scores(kind, circular)
            lost, won = self.changes(kind, circular)
            found[kind] = {
                "before": plain(before),
                "after": plain(after),
                "difference": self.difference(kind, circular).to_dict(),
                "lost": lost,
                "won": won,
            }
        return found

    def to_dict(self) -> dict[str, Any]:
        """All figures, those of circles apart, and every item with both answers."""
        figures = {"kinds": self.figures(circular=False)}
        if self.is_circular:
            figures[CIRCULAR] = self.figures(circular=True)
        answers = [
            {
                "kind": item.kind,
                "messages": list(item.messages),
                "answer": item.answer,
                "before": before,
                "after": after,
                "right": [mark(item, said) for said in (before, after)],
                **({"circle": item.circle} if item.circle else {}),
            }
            for item, before, after in zip(self.items, self.before, self.after, strict=True)
        ]
        return {**figures, "answers": answers}

    def section(self) -> Section:
        """As a part of a report."""
        rows = [("", "n", "LLM", "model", "difference", "-/+")]
        lines = []
        ways = (False, True) if self.is_circular else (False,)
        for kind, circular in ((kind, circular) for kind in self.kinds for circular in ways):
            name = f"{kind}, {CIRCULAR}" if circular else kind
            before, after = self.scores(kind, circular)
            change = self.difference(kind, circular)
            turned = "{}/{}".format(*self.changes(kind, circular))
            scores = (str(after.total), spelled(before), spelled(after))
            rows.append((name, *scores, points(change), turned))
            lines.append(Line(name, before, after, change))
        sentence = self.sentence + (CIRCLES if self.is_circular else "")
        return Section(self.title, sentence, rows, forest(lines))


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
