"""Answers side by side: ten of each kind of question, drawn by lot."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wings.eval.compare.comparison import Comparison
from wings.eval.items import text_of
from wings.eval.scoring.score import score

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
        right: whether each of the two is.
    """

    kind: str
    turns: Sequence[tuple[str, str, Sequence[Any]]]
    answer: str
    before: str
    after: str
    right: tuple[bool, bool]


def samples_of(comparison: Comparison, count: int = SAMPLES) -> list[Sample]:
    """So many samples, drawn by the comparison's seed and shown in the order of the items.

    By lot: files often take their kinds in turn, and even steps would meet the same kind again.
    """
    firsts = [numbers[0] for numbers in comparison.questions]
    chosen = sorted(random.Random(comparison.seed).sample(firsts, min(count, len(firsts))))
    return [_sample(comparison, n) for n in chosen]


def _sample(comparison: Comparison, n: int) -> Sample:
    item, before, after = comparison.items[n], comparison.before[n], comparison.after[n]
    turns = [_turn(message) for message in item.messages]
    right = score(item, before) == 1, score(item, after) == 1
    return Sample(item.kind, turns, item.answer, before, after, right)


def _turn(message: dict) -> tuple[str, str, list]:
    content = message["content"]
    parts = [] if isinstance(content, str) else content
    pictures = [part["image"] for part in parts if part["type"] == "image"]
    return message["role"], text_of(content), pictures
