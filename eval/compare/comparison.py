"""The same items before and after: two accuracies, and the paired difference between them.

A question is an item, or the items of one circle: the same question with its choices moved on by
one from item to item, as in MMBench's circular evaluation (Liu et al. 2023, arXiv 2307.06281).
Such a question counts by its first item, and once more as circular: right if all its items are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wings.eval.items import Item
from wings.eval.report.section import Section
from wings.eval.scoring.score import score

from .paired import HEADERS, Paired
from .paired_plot import paired_plot

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
            min(score(self.items[n], said[n]) for n in (numbers if circular else numbers[:1]))
            for numbers in self.questions
            if kind in (ALL, self.items[numbers[0]].kind)
        ]

    def paired(self, kind: str, circular: bool = False) -> Paired:
        """What the questions of a kind are worth, before and after."""
        before, after = (self.right(said, kind, circular) for said in (self.before, self.after))
        return Paired(before, after, self.seed)

    def figures(self, circular: bool) -> dict[str, Any]:
        """Of every kind both scores, the difference, and what was lost and won."""
        return {kind: self.paired(kind, circular).to_dict() for kind in self.kinds}

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
                "right": [score(item, said) for said in (before, after)],
                **({"circle": item.circle} if item.circle else {}),
            }
            for item, before, after in zip(self.items, self.before, self.after, strict=True)
        ]
        return {**figures, "answers": answers}

    def section(self) -> Section:
        """As a part of a report."""
        rows, lines = [HEADERS], []
        ways = (False, True) if self.is_circular else (False,)
        for kind, circular in ((kind, circular) for kind in self.kinds for circular in ways):
            name = f"{kind}, {CIRCULAR}" if circular else kind
            paired = self.paired(kind, circular)
            rows.append(paired.row(name))
            lines.append(paired.line(name))
        sentence = self.sentence + (CIRCLES if self.is_circular else "")
        return Section(self.title, sentence, rows, paired_plot(lines))
