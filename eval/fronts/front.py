"""`Front`: the scores of many merges of one child, and the merge that is chosen."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wings.eval.compare.bootstrap import Estimate
from wings.eval.compare.clusters import cluster_accuracy
from wings.eval.compare.paired import PairedScores
from wings.eval.scoring.accuracy import Accuracy
from wings.eval.sense_drift import Arm, SenseDrift

from .questions import CHOICE, PARTS, PICTURES, REPORT, FrontQuestions

Scores = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class FrontResult:
    """One model of a front.

    Attributes:
        name: in tables.
        value: of the parameter that is swept; None for a model that is a mark.
        scores: test -> the score of each question, from 0 to 1.
        drift: on the answers to the conversations that are reported; None if not measured.
    """

    name: str
    value: float | None
    scores: Scores
    drift: SenseDrift | None = None

    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        kl = None if self.drift is None else [vars(answer) for answer in self.drift.answers]
        scores = {test: list(values) for test, values in self.scores.items()}
        return {"name": self.name, "value": self.value, "scores": scores, "kl": kl}


@dataclass(frozen=True)
class Front:
    """All results.

    Attributes:
        questions: that all models were asked.
        llm: the language model. It is asked without pictures, and after exchanges in words.
        child: the unmerged child.
        merges: in the order of their values.
        others: further models that are marks.
        keep_pictures: points of pictures that the chosen merge may cost.
        seed: of the bootstrap.
        notes: sentences on what was not measured.
    """

    questions: FrontQuestions
    llm: FrontResult
    child: FrontResult
    merges: Sequence[FrontResult]
    others: Sequence[FrontResult]
    keep_pictures: float
    seed: int = 0
    notes: Sequence[str] = ()

    @property
    def results(self) -> list[FrontResult]:
        """All models: the LLM, the merges, the child and the others."""
        return [self.llm, *self.merges, self.child, *self.others]

    def accuracy(self, result: FrontResult, test: str, part: str = REPORT) -> Accuracy:
        """The accuracy of a part of a test, with an interval over clusters."""
        return cluster_accuracy(
            self._of(test, part, result.scores[test]),
            self._of(test, part, self.questions.clusters[test]),
            self.seed,
        )

    def language(self, result: FrontResult, part: str = REPORT) -> float:
        """Percent right of text: the mean of alone and after an image, where both are asked."""
        tests = self.questions.language_tests
        return sum(self._percent(result, test, part) for test in tests) / len(tests)

    def pictures(self, result: FrontResult, part: str = REPORT) -> float:
        """Percent right of questions about pictures."""
        return self._percent(result, PICTURES, part)

    def difference(self, result: FrontResult, other: FrontResult, test: str) -> Estimate:
        """One model minus another in points, on the questions that are reported."""
        before, after, clusters = (
            self._of(test, REPORT, values)
            for values in (other.scores[test], result.scores[test], self.questions.clusters[test])
        )
        return PairedScores(before, after, self.seed, clusters).difference

    @property
    def picture_floor(self) -> float:
        """The fewest percent of pictures that a chosen merge may have, in the part to choose by."""
        return self.pictures(self.child, CHOICE) - self.keep_pictures

    @property
    def chosen(self) -> FrontResult:
        """The most text among the merges, and the child, that keep the pictures.

        Only questions of the part to choose by count. Of equal ones the one with most pictures,
        then the child.
        """
        # Percentages are sums in floating point: 72.5 - 2 must not exclude 70.5.
        able = [
            result
            for result in (self.child, *self.merges)
            if self.pictures(result, CHOICE) >= self.picture_floor - 1e-9
        ]
        return max(able, key=lambda one: (self.language(one, CHOICE), self.pictures(one, CHOICE)))

    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        return {
            "keep_pictures": self.keep_pictures,
            "picture_floor": self.picture_floor,
            "chosen": self.chosen.name,
            "notes": list(self.notes),
            "questions": self.questions.to_dict(),
            "llm": self.llm.to_dict(),
            "child": self.child.to_dict(),
            "merges": [result.to_dict() for result in self.merges],
            "others": [result.to_dict() for result in self.others],
        }

    def write_csv(self, path: Path) -> None:
        """Writes one line a model and part: percent right with intervals, and KL."""
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            tests = list(self.questions.items)
            columns = [f"{test}{end}" for test in tests for end in ("", "_low", "_high")]
            writer.writerow(
                ["model", "value", "part", "chosen", *columns, "kl_alone", "kl_floor", "kl_after"]
            )
            for result in self.results:
                for part in PARTS:
                    writer.writerow(self._line(result, part))

    def _line(self, result: FrontResult, part: str) -> list[str]:
        figures: list[float] = []
        for test in self.questions.items:
            accuracy = self.accuracy(result, test, part)
            figures += [accuracy.percent, *accuracy.interval]
        cells = [f"{figure:.2f}" for figure in figures]
        if result.drift is None or part == CHOICE:
            cells += ["", "", ""]
        else:
            arms: tuple[Arm, ...] = ("alone", "words", "after")
            kind = result.drift.kinds[0]
            cells += [f"{result.drift.kl(arm, kind).value:.4f}" for arm in arms]
        value = "" if result.value is None else f"{result.value:g}"
        return [result.name, value, part, str(int(result is self.chosen)), *cells]

    def _percent(self, result: FrontResult, test: str, part: str) -> float:
        values = self._of(test, part, result.scores[test])
        return 100.0 * sum(values) / len(values)

    def _of(self, test: str, part: str, values: Sequence[Any]) -> list[Any]:
        pairs = zip(values, self.questions.parts[test], strict=True)
        return [value for value, own in pairs if own == part]
