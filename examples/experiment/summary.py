"""Summaries of methods over questions and seeds, and paired differences between methods."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wings.eval.compare.bootstrap import Estimate, bootstrap
from wings.examples.pages import with_interval

from .measure import TESTS, all_kinds
from .methods import BY_KEY
from .runs import BELOW, ExperimentResults, RunResult

# A method and the methods that it is compared with.
COMPARED = (
    ("wings-frozen", "full"),
    ("wings-retention", "full", "full-text-turns", "lora", "projector", "wings-text-turns"),
    ("wings-text-turns", "wings-frozen", "full-text-turns"),
    ("full-text-turns", "full"),
    ("full-replay", "full"),
    ("lora", "full"),
    ("wings", "full"),
    ("wings-fresh", "full", "wings-frozen"),
    ("wings-attended", "wings-frozen", "wings-text-turns", "full"),
    ("wings-attended-text-turns", "wings-attended", "wings-retention", "full-text-turns"),
    ("wings-attended", "projector"),
    ("prefix", "projector"),
    ("wings-modality", "wings"),
    ("wings-no-router", "wings"),
    ("wings-visual", "wings"),
    ("wings-textual", "wings"),
    ("wings-normalized", "wings"),
)
PAIRS = [(ours, theirs) for ours, *others in COMPARED for theirs in others]
# Methods that are also compared with the rates below a sweep.
AGAINST_BELOW = ("wings-attended", "wings-attended-text-turns")


@dataclass(frozen=True)
class ScoreSummary:
    """One test of a method.

    Attributes:
        estimate: the mean over seeds, with the 95% interval over questions.
        seeds: the score of each seed.
        same: percent of the questions that the LLM answered rightly; None for pictures.
    """

    estimate: Estimate
    seeds: tuple[float, ...]
    same: float | None

    def __str__(self) -> str:
        """`97.0 (93 to 101)`."""
        assert self.estimate.low is not None and self.estimate.high is not None
        return with_interval(self.estimate.value, self.estimate.low, self.estimate.high)


@dataclass(frozen=True)
class MethodSummary:
    """All tests of a method.

    Attributes:
        text, mixed, pictures: text and mixed relative to the LLM's score; pictures absolute.
        kinds: percent of mixed and of pictures by kind, mean over seeds.
        drift_alone, drift_mixed: nats a token, mean over the seeds that did not fail.
        cpu_seconds: of stage 2, likewise.
        seeds: number of seeds.
        failed: how many ended without a model; all their answers count as wrong.
    """

    text: ScoreSummary
    mixed: ScoreSummary
    pictures: ScoreSummary
    kinds: dict[str, dict[str, float]]
    drift_alone: float
    drift_mixed: float
    cpu_seconds: float
    seeds: int
    failed: int


def summarize(results: ExperimentResults, runs: Sequence[RunResult]) -> MethodSummary | None:
    """Summarizes the runs of one method at one rate; None where all failed."""
    records = [run.record for run in runs if not run.failed]
    if not records:
        return None
    count = len(records)
    drifts = [record["scores"]["drift"] for record in records]
    kinds: dict[str, dict[str, float]] = {}
    for test in ("mixed", "pictures"):
        scores = [record["scores"]["test"][test] for record in records]
        # A failed run answered nothing, so it counts as 0.
        kinds[test] = {
            kind: 100 * sum(sum(of[kind]) / len(of[kind]) for of in scores) / len(runs)
            for kind in scores[0]
        }
    return MethodSummary(
        text=summarize_test(results, runs, "text"),
        mixed=summarize_test(results, runs, "mixed"),
        pictures=summarize_test(results, runs, "pictures"),
        kinds=kinds,
        drift_alone=sum(drift["alone"] for drift in drifts) / count,
        drift_mixed=sum(drift["mixed"] for drift in drifts) / count,
        cpu_seconds=sum(record["cpu_seconds"] for record in records) / count,
        seeds=len(runs),
        failed=len(runs) - count,
    )


def summarize_test(
    results: ExperimentResults, runs: Sequence[RunResult], test: str
) -> ScoreSummary:
    """Summarizes one test; text and mixed are paired with the LLM's scores, item by item."""
    scores = mean_scores(runs, test)
    before = None if test == "pictures" else all_kinds(results.llm["test"][test])
    estimate = bootstrap(scores, before).map(lambda value: 100 * value)
    same = None
    if before is not None:
        held = [mean for mean, llm in zip(scores, before, strict=True) if llm == 1]
        same = 100 * sum(held) / len(held)
    return ScoreSummary(estimate, tuple(results.kept(run, test) for run in runs), same)


def mean_scores(runs: Sequence[RunResult], test: str) -> list[float]:
    """The score of every question, mean over seeds; a failed run scores 0 everywhere."""
    scores = [all_kinds(run.record["scores"]["test"][test]) for run in runs if not run.failed]
    return [sum(of_item) / len(runs) for of_item in zip(*scores, strict=True)]


def paired_rows(results: ExperimentResults, steps: int) -> Iterator[tuple[str, ...]]:
    """Differences of every pair of methods at their chosen rates, by test."""
    pairs = [(_chosen(results, ours, steps), _chosen(results, theirs, steps))
             for ours, theirs in PAIRS]  # fmt: skip
    for key, rate in BELOW.items():
        name = f"{BY_KEY[key].name}, below its sweep"
        below = name, results.at_rate(BY_KEY[key], rate, steps)
        pairs += [(_chosen(results, ours, steps), below) for ours in AGAINST_BELOW]
    for (name, runs), (other_name, other_runs) in pairs:
        # With one seed, the difference depends mostly on the order of the data.
        if min(len(runs), len(other_runs)) > 1 and not any(r.failed for r in runs + other_runs):
            estimates = [
                difference(mean_scores(runs, test), mean_scores(other_runs, test)) for test in TESTS
            ]
            cells = (f"{e.value:+.1f} ({e.low:.1f} to {e.high:.1f})" for e in estimates)
            yield (f"{name} - {other_name}", *cells)


def _chosen(results: ExperimentResults, key: str, steps: int) -> tuple[str, list[RunResult]]:
    return BY_KEY[key].name, results.at_best(BY_KEY[key], steps)


def difference(ours: list[float], theirs: list[float]) -> Estimate:
    """The paired difference on the same questions, in points of all of them."""
    pairs = zip(ours, theirs, strict=True)
    return bootstrap([a - b for a, b in pairs]).map(lambda value: 100 * value)
