"""Sums that nobody has to download: whole numbers, seeded."""

import random
from collections.abc import Callable

from wings.eval.items import Item

# Kind, how it is written, what it is, the largest operands.
KINDS: dict[str, tuple[str, Callable[[int, int], int], int, int]] = {
    "addition": ("What is {} plus {}?", lambda a, b: a + b, 99, 99),
    "subtraction": ("What is {} minus {}?", lambda a, b: a - b, 99, 99),
    "multiplication": ("What is {} times {}?", lambda a, b: a * b, 12, 12),
}
HOW = "Answer with the number."


def arithmetic(seed: int = 0, each: int = 60) -> list[Item]:
    """`each` different questions of every kind; an answer's last number counts."""
    draw = random.Random(seed)
    items = []
    for kind, (asked, work, first, second) in KINDS.items():
        pairs = [(a, b) for a in range(2, first + 1) for b in range(2, second + 1)]
        if kind == "subtraction":
            pairs = [(a, b) for a, b in pairs if a > b]
        for a, b in draw.sample(pairs, each):
            value = work(a, b)
            question = {"role": "user", "content": f"{asked.format(a, b)} {HOW}"}
            checks = ({"rule": "number", "value": value},)
            wrong = draw.sample([w for w in range(max(0, value - 9), value + 10) if w != value], 3)
            choices = tuple(map(str, sorted([value, *wrong])))
            items.append(Item(kind, (question,), str(value), "checks", choices, checks=checks))
    draw.shuffle(items)  # the first few are a fair sample
    return items
