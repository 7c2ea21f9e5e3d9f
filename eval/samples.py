"""Answers side by side: ten of each kind of question, drawn by lot."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .comparison import Comparison
from .score import is_right
from .text import text_of

SAMPLES = 10


@dataclass(frozen=True)
class Sample:
    """One item and what both models said.

    Attributes:
        kind: of the item.
        turns: who says what, with the pictures of each turn: `(role, text, pictures)`.
        answer: the reference.
        before: what the LLM said.
        after: what the model said.
    """

    kind: str
    turns: Sequence[tuple[str, str, Sequence[Any]]]
    answer: str
    before: str
    after: str

    @property
    def right(self) -> tuple[bool, bool]:
        """Whether each of the two answers is right."""
        return is_right(self.before, self.answer), is_right(self.after, self.answer)


def samples_of(comparison: Comparison, count: int = SAMPLES) -> list[Sample]:
    """So many samples, drawn by the comparison's seed and shown in the order of the items.

    By lot: files often take their kinds in turn, and even steps would meet the same kind again.
    """
    total = len(comparison.items)
    chosen = sorted(random.Random(comparison.seed).sample(range(total), min(count, total)))
    return [
        Sample(
            comparison.items[n].kind,
            [_turn(message) for message in comparison.items[n].messages],
            comparison.items[n].answer,
            comparison.before[n],
            comparison.after[n],
        )
        for n in chosen
    ]


def _turn(message: dict) -> tuple[str, str, list]:
    content = message["content"]
    parts = [] if isinstance(content, str) else content
    pictures = [part["image"] for part in parts if part["type"] == "image"]
    return message["role"], text_of(content), pictures
