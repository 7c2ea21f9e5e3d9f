"""Figures of the gate experiment: means over seeds, with intervals over questions and seeds."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wings.examples.over_seeds import Figure, digits, mean

ORACLE = "learners off in text turns"
# To reach: shares and differences that a gate was asked for.
SAME_SHARE, ABOVE_FLOOR, PICTURES_LOST = 90.0, 0.02, 2.0


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
