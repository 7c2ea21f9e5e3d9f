"""What a method came to over items and seeds: kept text and mixed, learned pictures, drift."""

from collections.abc import Sequence
from dataclasses import dataclass

from wings.commands.experiment.measure import of_kinds
from wings.commands.experiment.runs import Result, Results
from wings.eval.bootstrap import Estimate, bootstrap


@dataclass(frozen=True)
class Figure:
    """One number of a row.

    Attributes:
        estimate: the mean over seeds, with the 95% interval that the choice of items leaves.
        seeds: the number of each seed.
    """

    estimate: Estimate
    seeds: tuple[float, ...]

    def __str__(self) -> str:
        """`97 (93-101)`."""
        low, high = self.estimate.low, self.estimate.high
        return f"{self.estimate.value:.1f} ({low:.0f} to {high:.0f})"


@dataclass(frozen=True)
class Figures:
    """One row of the table.

    Attributes:
        text, mixed: percent of what the untouched LLM can do; `pictures` percent of all.
        drift_alone, drift_mixed: nats a token, mean over seeds.
        cpu_seconds: of stage 2, mean over seeds.
        seeds: how many.
        failed: how many of them ended without a model.
    """

    text: Figure
    mixed: Figure
    pictures: Figure
    drift_alone: float
    drift_mixed: float
    cpu_seconds: float
    seeds: int
    failed: int


def figures(results: Results, runs: Sequence[Result]) -> Figures | None:
    """Of the runs of one method at one rate; None where none ended with a model."""
    good = [run for run in runs if not run.failed]
    if not good:
        return None
    drifts = [run.found["scores"]["drift"] for run in good]
    count = len(good)
    return Figures(
        *(figure(results, good, test) for test in ("text", "mixed", "pictures")),
        drift_alone=sum(drift["alone"] for drift in drifts) / count,
        drift_mixed=sum(drift["mixed"] for drift in drifts) / count,
        cpu_seconds=sum(run.found["cpu_seconds"] for run in good) / count,
        seeds=count,
        failed=len(runs) - count,
    )


def figure(results: Results, runs: Sequence[Result], test: str, part: str = "test") -> Figure:
    """One test; of text, what the LLM answered is what it is counted in, item by item."""
    every = [marks(run, test, part) for run in runs]
    means = [sum(of) / len(of) for of in zip(*every, strict=True)]
    before = None if test == "pictures" else of_kinds(results.llm[part][test])
    estimate = bootstrap(means, before).through(lambda value: 100 * value)
    return Figure(estimate, tuple(results.kept(run, test, part) for run in runs))


def marks(run: Result, test: str, part: str) -> list[float]:
    """What every answer of a test is worth."""
    return of_kinds(run.found["scores"][part][test])
