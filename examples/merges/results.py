"""Figures of the merge results: means over seeds, with intervals over questions and seeds."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wings.eval.fronts.front import Front, FrontResult
from wings.eval.fronts.questions import REPORT, FrontQuestions
from wings.examples.over_seeds import Figure, Matrix, digits, mean

from .variants import SWEPT, UNMERGED

Line = dict[str, Any]


@dataclass(frozen=True)
class MergeResults:
    """The lines of `runs.jsonl`: one model of one seed each; and the questions they answer."""

    lines: Sequence[Line]
    questions: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "MergeResults":
        """Reads a folder of results."""
        text = (folder / "runs.jsonl").read_text(encoding="utf-8")
        questions = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
        return cls([json.loads(line) for line in text.splitlines()], questions)

    @property
    def bases(self) -> list[str]:
        """The LLMs whose children were merged."""
        return list(dict.fromkeys(line["base"] for line in self.lines))

    def models(self, base: str, group: str) -> list[str]:
        """The models of a group that were measured, in the order of the lines."""
        found = [ln["model"] for ln in self.lines if (ln["base"], ln["group"]) == (base, group)]
        return list(dict.fromkeys(found))

    def of(self, base: str, group: str, model: str) -> list[Line]:
        """The lines of a model, by seed."""
        key = (base, group, model)
        found = [ln for ln in self.lines if (ln["base"], ln["group"], ln["model"]) == key]
        return sorted(found, key=lambda line: line["seed"])

    def right(self, lines: Sequence[Line], test: str) -> Figure:
        """Percent right of the questions that are reported."""
        base = lines[0]["base"]
        rows = [100 * self._reported(base, test, digits(ln["scores"][test])) for ln in lines]
        return mean(rows, clusters=self._clusters(base, test))

    def llm(self, base: str, test: str) -> float:
        """Percent right of the LLM: after an exchange in words, and without pictures."""
        return float(
            100 * self._reported(base, test, digits(self.questions[base]["llm"][test])).mean()
        )

    def difference(self, lines: Sequence[Line], others: Sequence[Line], test: str) -> Figure:
        """Points by which one model is above another, paired by seed and question."""
        base = lines[0]["base"]
        rows = [
            100 * self._reported(base, test, digits(a["scores"][test]) - digits(b["scores"][test]))
            for a, b in zip(lines, others, strict=True)
        ]
        return mean(rows, clusters=self._clusters(base, test))

    def kl(self, lines: Sequence[Line], arm: str) -> Figure:
        """KL from the LLM asked alone, nats a token: `alone`, or `after` an image."""
        base = lines[0]["base"]
        clusters = self._clusters(base, "conversations")
        return mean([np.array(ln[arm]) for ln in lines], self._tokens(base), clusters)

    def floor(self, base: str) -> float:
        """KL of the LLM after the exchange in words from the LLM asked alone, nats a token."""
        return sum(self.questions[base]["floor"]) / sum(self.questions[base]["tokens"])

    def chosen(self, base: str, group: str, seed: int) -> Line:
        """The linear merge that `wings merge --sweep` chooses, or the unmerged child."""
        lines = {
            ln["model"]: ln
            for ln in self.lines
            if (ln["base"], ln["group"], ln["seed"]) == (base, group, seed)
        }
        known = self.questions[base]
        tests = [name for name in ("text", "conversations", "pictures") if name in known]
        questions = FrontQuestions(
            {test: [] for test in tests},
            {test: known[test]["clusters"] for test in tests},
            {test: known[test]["parts"] for test in tests},
        )
        results = {name: result_of(line) for name, line in lines.items()}
        swept = [results[name] for name in lines if SWEPT.fullmatch(name)]
        llm = FrontResult("the LLM", None, {})
        front = Front(questions, llm, results[UNMERGED], swept, [], 2.0)
        return lines[front.chosen.name]

    def _reported(self, base: str, test: str, values: Matrix) -> Matrix:
        return values[[part == REPORT for part in self.questions[base][test]["parts"]]]

    def _clusters(self, base: str, test: str) -> list[int]:
        known = self.questions[base][test]
        pairs = zip(known["clusters"], known["parts"], strict=True)
        return [cluster for cluster, part in pairs if part == REPORT]

    def _tokens(self, base: str) -> Matrix:
        return np.array(self.questions[base]["tokens"], dtype=np.float64)


def result_of(line: Line) -> FrontResult:
    """A line as a result of a front."""
    scores = {test: [float(one) for one in text] for test, text in line["scores"].items()}
    return FrontResult(line["model"], None, scores)
