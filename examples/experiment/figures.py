"""What a method came to over items and seeds: kept text and mixed, learned pictures, drift."""

from collections.abc import Sequence
from dataclasses import dataclass

from wings.eval.compare.bootstrap import Estimate, bootstrap

from .measure import of_kinds
from .runs import Result, Results


@dataclass(frozen=True)
class Figure:
    """One number of a row.

    Attributes:
        estimate: the mean over seeds, with the 95% interval that the choice of items leaves.
        seeds: the number of each seed.
        same: percent of the very questions that the LLM answered rightly; None of pictures.
    """

    estimate: Estimate
    seeds: tuple[float, ...]
    same: float | None

    def __str__(self) -> str:
        """`97 (93-101)`."""
        low, high = self.estimate.low, self.estimate.high
        return f"{self.estimate.value:.1f} ({low:.0f} to {high:.0f})"


@dataclass(frozen=True)
class Figures:
    """One row of the table.

    Attributes:
        text, mixed: right answers, with the LLM's as 100; `pictures` percent of all.
        kinds: of mixed and of pictures, percent by kind, mean over seeds.
        drift_alone, drift_mixed: nats a token, mean over the seeds that ended with a model.
        cpu_seconds: of stage 2, mean over them too.
        seeds: how many there are.
        failed: how many of them ended without a model, whose answers count as wrong.
    """

    text: Figure
    mixed: Figure
    pictures: Figure
    kinds: dict[str, dict[str, float]]
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
        text=figure(results, runs, "text"),
        mixed=figure(results, runs, "mixed"),
        pictures=figure(results, runs, "pictures"),
        kinds={test: by_kind(runs, test) for test in ("mixed", "pictures")},
        drift_alone=sum(drift["alone"] for drift in drifts) / count,
        drift_mixed=sum(drift["mixed"] for drift in drifts) / count,
        cpu_seconds=sum(run.found["cpu_seconds"] for run in good) / count,
        seeds=len(runs),
        failed=len(runs) - count,
    )


def figure(results: Results, runs: Sequence[Result], test: str, part: str = "test") -> Figure:
    """One test; of text, what the LLM answered is what it is counted in, item by item."""
    worth = means(runs, test, part)
    before = None if test == "pictures" else of_kinds(results.llm[part][test])
    estimate = bootstrap(worth, before).map(lambda value: 100 * value)
    seeds = tuple(results.kept(run, test, part) for run in runs)
    same = None
    if before is not None:
        held = [mean for mean, mark in zip(worth, before, strict=True) if mark == 1]
        same = 100 * sum(held) / len(held)
    return Figure(estimate, seeds, same)


def means(runs: Sequence[Result], test: str, part: str = "test") -> list[float]:
    """What the answers to every question are worth, mean over seeds."""
    found = [of_kinds(run.found["scores"][part][test]) for run in runs if not run.failed]
    # A run that ended without a model answered nothing.
    every = [*found, *[[0.0] * len(found[0])] * (len(runs) - len(found))]
    return [sum(of) / len(of) for of in zip(*every, strict=True)]


def by_kind(runs: Sequence[Result], test: str) -> dict[str, float]:
    """Percent of the answers of each kind, mean over seeds."""
    found = [run.found["scores"]["test"][test] for run in runs if not run.failed]
    shares = {kind: [sum(of[kind]) / len(of[kind]) for of in found] for kind in found[0]}
    # A run that ended without a model answered nothing.
    return {kind: 100 * sum(of) / len(runs) for kind, of in shares.items()}
