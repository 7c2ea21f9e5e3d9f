"""Figures of the gate experiment: means over seeds, with intervals over questions and seeds."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]  # [seeds, questions]
DRAWS = 4000
ORACLE = "learners off in text turns"
# To reach: shares and differences that a gate was asked for.
SAME_SHARE, ABOVE_FLOOR, PICTURES_LOST = 90.0, 0.02, 2.0


@dataclass(frozen=True)
class Figure:
    """A mean over seeds and questions, and its 95% interval over both."""

    value: float
    low: float
    high: float

    def text(self, digits: int = 1) -> str:
        """`84.2 (81.0 to 87.1)`."""
        return f"{self.value:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


class GateResults:
    """The lines of `runs.jsonl` and the questions they answer.

    Args:
        lines: one variant of one seed each.
        questions: `kinds` by test, and the LLM's own results.
    """

    def __init__(self, lines: Sequence[dict[str, Any]], questions: dict[str, Any]) -> None:
        self.lines, self.questions = list(lines), questions

    @classmethod
    def read(cls, folder: Path) -> "GateResults":
        """Reads a folder of results."""
        text = (folder / "runs.jsonl").read_text(encoding="utf-8")
        questions = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
        return cls([json.loads(line) for line in text.splitlines()], questions)

    def of(self, size: str, variant: str) -> list[dict[str, Any]]:
        """The lines of a variant, by seed."""
        found = [ln for ln in self.lines if (ln["size"], ln["variant"]) == (size, variant)]
        return sorted(found, key=lambda line: line["seed"])

    def variants(self, size: str) -> list[str]:
        """The variants of a size that were measured, in the order of the lines."""
        return list(dict.fromkeys(ln["variant"] for ln in self.lines if ln["size"] == size))

    def right(self, lines: Sequence[dict], test: str, kind: str | None = None) -> Figure:
        """Percent right of a test, or of one of its kinds."""
        chosen = [kind in (None, own) for own in self.questions["kinds"][test]]
        return mean([digits(line["right"][test])[chosen] * 100 for line in lines])

    def same(self, lines: Sequence[dict]) -> Figure:
        """Percent of text answers after an image that are the LLM's after the exchange in words."""
        return mean([digits(line["same"]) * 100 for line in lines])

    def above_floor(self, lines: Sequence[dict]) -> Figure:
        """KL after an image minus that of the LLM after the exchange in words, nats a token."""
        floor = np.array(self.questions["floor"])
        rows = [np.array(line["kl"]) - floor for line in lines]
        return mean(rows, np.array(self.questions["tokens"], dtype=np.float64))

    @property
    def floor(self) -> float:
        """KL of the LLM after the exchange in words from the LLM asked alone, nats a token."""
        return sum(self.questions["floor"]) / sum(self.questions["tokens"])

    @property
    def llm(self) -> float:
        """Percent right of the LLM after the exchange in words."""
        right = digits(self.questions["llm"])
        return float(100 * right.mean())

    def false_closes(self, size: str, variant: str) -> float | None:
        """Percent of follow-ups that are right without the gate and wrong with it.

        The same checkpoint with its gate taken off, or before one was put on. None where there is
        no gate.
        """
        shares = []
        for line in self.of(size, variant):
            opened = line.get("open") or self._none(size, line["seed"])["right"]["follow_ups"]
            was, now = digits(opened), digits(line["right"]["follow_ups"])
            shares.append(100 * ((was == 1) & (now == 0)).sum() / was.sum())
        return None if variant in ("none", ORACLE) else float(np.mean(shares))

    def difference(self, size: str, one: str, other: str, test: str) -> Figure | None:
        """Points by which one variant is above another, paired by seed and question."""
        pairs = [
            (mine, theirs)
            for mine in self.of(size, one)
            for theirs in self.of(size, other)
            if mine["seed"] == theirs["seed"]
        ]
        if not pairs:
            return None
        rows = [100 * (digits(a["right"][test]) - digits(b["right"][test])) for a, b in pairs]
        return mean(rows)

    def reached(self, size: str, variant: str) -> list[bool]:
        """Are the same answers, KL and pictures within what was asked for, on the means."""
        lines, oracle = self.of(size, variant), self.of(size, ORACLE)
        seeds = {line["seed"] for line in lines}
        none = [line for line in self.of(size, "none") if line["seed"] in seeds]
        oracle = [line for line in oracle if line["seed"] in seeds]
        kept = self.right(none, "pictures").value - self.right(lines, "pictures").value
        return [
            self.same(lines).value >= SAME_SHARE / 100 * self.same(oracle).value,
            self.above_floor(lines).value <= ABOVE_FLOOR,
            kept <= PICTURES_LOST + 1e-9,
        ]

    def _none(self, size: str, seed: int) -> dict[str, Any]:
        return next(line for line in self.of(size, "none") if line["seed"] == seed)


def digits(text: str) -> Matrix:
    """`[n]` of a text of 0 and 1."""
    return np.array([float(one) for one in text])


def mean(rows: Sequence[Matrix], weights: Matrix | None = None) -> Figure:
    """The mean over seeds and questions; a draw resamples both with replacement.

    Args:
        rows: `[n]` a seed, sums over a question; the same questions for every seed.
        weights: `[n]` of the questions, such as tokens; None for 1.
    """
    matrix = np.stack(rows)
    seeds, count = matrix.shape
    below = np.ones(count) if weights is None else weights
    rng = np.random.default_rng(0)
    draw: Callable[[], float] = lambda: _resampled(matrix, below, rng, seeds, count)  # noqa: E731
    low, high = np.quantile([draw() for _ in range(DRAWS)], (0.025, 0.975))
    return Figure(float(matrix.mean(0).sum() / below.sum()), float(low), float(high))


def _resampled(
    matrix: Matrix, below: Matrix, rng: np.random.Generator, seeds: int, count: int
) -> float:
    rows, columns = rng.integers(seeds, size=seeds), rng.integers(count, size=count)
    return float(matrix[rows].mean(0)[columns].sum() / below[columns].sum())
