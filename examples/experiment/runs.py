"""The runs of the experiment and their order: sweeps, then seeds, then further runs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .measure import TESTS, percent
from .methods import BY_KEY, METHODS, SweptMethod

SEEDS = (0, 1, 2)
# Methods are run in three tiers that end here. The first has the main comparisons.
FIRST, SECOND = 10, 18
EQUAL_TIME = "wings-frozen"  # trained again for as long as the full fine-tune took
TIMED_AGAINST = "full"
# Rates below a sweep whose lowest was chosen. They were added after a look at the test scores, so
# no rate is chosen from them.
BELOW = {"full": 5e-6, "lora": 2e-5}


@dataclass(frozen=True)
class ExperimentRun:
    """One training run of one method.

    Attributes:
        method: its key.
        rate: of the groups that the method sweeps.
        seed: of new weights and of the order of the data.
        steps: of stage 2.
    """

    method: str
    rate: float
    seed: int
    steps: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.method}-{self.rate:g}-seed{self.seed}-{self.steps}steps"


@dataclass(frozen=True)
class RunResult:
    """A run and its record, one line of `runs.jsonl`.

    Attributes:
        run: the run.
        record: `seconds`, `cpu_seconds`, `trained`, `losses`, and `scores` as `measure` gives them;
            or `failed`, an error message.
    """

    run: ExperimentRun
    record: dict[str, Any]

    @property
    def failed(self) -> bool:
        """Returns whether the run ended without a model."""
        return "failed" in self.record

    def percent(self, test: str, part: str = "test") -> float:
        """Percent of a test; 0 for a failed run."""
        return 0.0 if self.failed else percent(self.record["scores"][part][test])


class ExperimentResults:
    """All finished runs, the untouched LLM's scores, and the seconds of each stage 1 by name."""

    def __init__(
        self, llm: dict[str, Any], results: Sequence[RunResult], stage_1: dict[str, float]
    ) -> None:
        self.llm, self.stage_1, self.results = llm, stage_1, list(results)
        self.runs = {result.run for result in results}

    def before(self, test: str, part: str = "test") -> float:
        """The untouched LLM's percent; 100 for pictures, which it cannot see."""
        return 100.0 if test == "pictures" else percent(self.llm[part][test])

    @property
    def guess(self) -> float:
        """Percent of the test's picture questions that need no picture, see `measure.guess`."""
        return percent(self.llm["guess"])

    def kept(self, result: RunResult, test: str, part: str = "test") -> float:
        """Score relative to the LLM's, in percent; for pictures, percent of all questions."""
        return 100 * result.percent(test, part) / self.before(test, part)

    def selection_score(self, result: RunResult) -> float:
        """The mean of the three tests on the validation part, by which a rate is chosen."""
        return sum(self.kept(result, test, "validation") for test in TESTS) / len(TESTS)

    def sweep(self, method: SweptMethod, steps: int) -> list[RunResult]:
        """The finished runs of a method's sweep, by rising rate."""
        runs = [ExperimentRun(method.key, rate, SEEDS[0], steps) for rate in method.rates]
        results = [result for result in self.results if result.run in runs]
        return sorted(results, key=lambda result: result.run.rate)

    def best(self, method: SweptMethod, steps: int) -> RunResult | None:
        """The run of the chosen rate; None before the sweep is finished."""
        sweep = self.sweep(method, steps)
        return max(sweep, key=self.selection_score) if len(sweep) == len(method.rates) else None

    def at_best(self, method: SweptMethod, steps: int) -> list[RunResult]:
        """The runs of every seed at the chosen rate."""
        best = self.best(method, steps)
        return [] if best is None else self.at_rate(method, best.run.rate, steps)

    def at_rate(self, method: SweptMethod, rate: float, steps: int) -> list[RunResult]:
        """The runs of every seed at one rate."""
        wanted = (method.key, rate, steps)
        return [r for r in self.results if (r.run.method, r.run.rate, r.run.steps) == wanted]

    def equal_steps(self, steps: int) -> int | None:
        """Steps in which `EQUAL_TIME` takes the time of `TIMED_AGAINST`; None before both ran."""
        ours, theirs = (self.best(BY_KEY[key], steps) for key in (EQUAL_TIME, TIMED_AGAINST))
        if ours is None or theirs is None or ours.failed or theirs.failed:
            return None
        return round(steps * theirs.record["cpu_seconds"] / ours.record["cpu_seconds"])


def pending_runs(
    results: ExperimentResults, steps: int, methods: Sequence[SweptMethod] = METHODS
) -> Iterator[ExperimentRun]:
    """Runs that are still to be done, in their order, as far as they are known yet."""
    return (run for run in _all_runs(results, steps, methods) if run not in results.runs)


def _all_runs(
    results: ExperimentResults, steps: int, methods: Sequence[SweptMethod]
) -> Iterator[ExperimentRun]:
    yield from _tier_runs(results, steps, methods[:FIRST])
    longer, best = results.equal_steps(steps), results.best(BY_KEY[EQUAL_TIME], steps)
    if longer is not None and best is not None:
        for seed in SEEDS:
            yield ExperimentRun(EQUAL_TIME, best.run.rate, seed, longer)
    yield from _tier_runs(results, steps, methods[FIRST:SECOND])
    for seed in SEEDS:
        for method in methods:
            if method.key in BELOW:
                yield ExperimentRun(method.key, BELOW[method.key], seed, steps)
    yield from _tier_runs(results, steps, methods[SECOND:])


def _tier_runs(
    results: ExperimentResults, steps: int, tier: Sequence[SweptMethod]
) -> Iterator[ExperimentRun]:
    for method in tier:
        for rate in method.rates:
            yield ExperimentRun(method.key, rate, SEEDS[0], steps)
    for seed in SEEDS[1:]:
        for method in tier:
            if (best := results.best(method, steps)) is not None:
                yield ExperimentRun(method.key, best.run.rate, seed, steps)
