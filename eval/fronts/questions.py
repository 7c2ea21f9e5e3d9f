"""The questions of a front, in a part to choose by and a part to report."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wings.errors import WingsError
from wings.eval.compare.clusters import cluster_items
from wings.eval.data import EvalData
from wings.eval.items import Item, question_alone

TEXT, CONVERSATIONS, PICTURES = TESTS = "text", "conversations", "pictures"
CHOICE, REPORT = PARTS = "choice", "report"


@dataclass(frozen=True)
class FrontQuestions:
    """The questions that every model of a front is asked.

    Attributes:
        items: test -> its questions; tests are `text` (alone), `conversations` (about text, after
            an image) and `pictures`. Those without questions are missing.
        clusters: test -> the cluster of each question; equal numbers of two tests are one cluster.
        parts: test -> `choice` or `report` for each question. A cluster is in one part.
    """

    items: Mapping[str, Sequence[Item]]
    clusters: Mapping[str, Sequence[int]]
    parts: Mapping[str, Sequence[str]]

    @classmethod
    def split(cls, data: EvalData) -> "FrontQuestions":
        """Puts every other cluster of each kind of question into the part to choose by.

        A question that is asked alone and after an image is in one part, as are all questions about
        one drawing.

        Raises:
            WingsError: no pictures, no text, or a part without questions.
        """
        items = {test: list(getattr(data, test)) for test in TESTS if getattr(data, test)}
        if PICTURES not in items or len(items) < 2:
            raise WingsError(
                "A sweep weighs pictures against text: give --pictures, and --text or"
                " --conversations or both; or none of them, for generated questions."
            )
        clusters = _clusters(items)
        counts: Counter[tuple[str, str]] = Counter()
        part_of: dict[int, str] = {}
        for test, group in items.items():
            for item, number in zip(group, clusters[test], strict=True):
                if number not in part_of:
                    part_of[number] = PARTS[counts[test, item.kind] % 2]
                    counts[test, item.kind] += 1
        parts = {test: [part_of[number] for number in clusters[test]] for test in items}
        for test, own in parts.items():
            for part in PARTS:
                if part not in own:
                    raise WingsError(
                        f"--{test} has too few different questions to choose by some and report"
                        f" others: give at least two that share no image."
                    )
        return cls(items, clusters, parts)

    @classmethod
    def of(cls, choice: EvalData, report: EvalData) -> "FrontQuestions":
        """Takes both parts as they are given."""
        items = {
            test: [*getattr(choice, test), *getattr(report, test)]
            for test in TESTS
            if getattr(report, test)
        }
        clusters = _clusters(items)
        parts = {}
        for test, group in items.items():
            count = len(getattr(choice, test))
            parts[test] = [CHOICE] * count + [REPORT] * (len(group) - count)
        return cls(items, clusters, parts)

    @property
    def language_tests(self) -> list[str]:
        """The tests about text: alone, after an image, or both."""
        return [test for test in self.items if test != PICTURES]

    def reported(self, test: str) -> list[Item]:
        """The questions of the part that is reported."""
        pairs = zip(self.items[test], self.parts[test], strict=True)
        return [item for item, part in pairs if part == REPORT]

    def to_dict(self) -> dict[str, Any]:
        """Kind, cluster and part of every question, for JSON."""
        return {
            test: {
                "kinds": [item.kind for item in group],
                "clusters": list(self.clusters[test]),
                "parts": list(self.parts[test]),
            }
            for test, group in self.items.items()
        }


def _clusters(items: Mapping[str, Sequence[Item]]) -> dict[str, list[int]]:
    """The number of each question's cluster, counted over all tests."""
    numbers = iter(cluster_items([_unit(test, item) for test in items for item in items[test]]))
    return {test: [next(numbers) for _ in group] for test, group in items.items()}


def _unit(test: str, item: Item) -> Item:
    """The item, with the words of its last question as cluster if it is about text."""
    if test == PICTURES or item.cluster:
        return item
    return replace(item, cluster=f"{question_alone(item).messages} {item.answer}")
