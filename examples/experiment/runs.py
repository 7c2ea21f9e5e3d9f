"""Which runs the experiment consists of, and in what order: sweeps, then seeds, then others."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .measure import TESTS, percent
from .methods import BY_KEY, METHODS, Method

SEEDS = (0, 1, 2)
# Methods whose rows are finished before the next begin: what the first compare is asked first.
FIRST, SECOND = 10, 18
EQUAL_TIME = "wings-frozen"  # trained again for as long as the full fine-tune took
TIMED_AGAINST = "full"
# Rates below a sweep whose lowest was chosen, to see where a gentler one leads. The validation is
# not asked about them: what was added after a look at the figures has no part in a choice.
BELOW = {"full": 5e-6, "lora": 2e-5}
LLM = "llm"


@dataclass(frozen=True)
class Run:
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
        """Of its folder, and in a list of runs."""
        return f"{self.method}-{self.rate:g}-seed{self.seed}-{self.steps}steps"


@dataclass(frozen=True)
class Result:
    """A run with what came of it, one line of `runs.jsonl`.

    Attributes:
        run: which.
        found: `seconds`, `cpu_seconds`, `trained`, `losses`, and `scores` as `measure` gives them;
            or `failed`, a sentence.
    """

    run: Run
    found: dict[str, Any]

    @property
    def failed(self) -> bool:
        """Whether the run ended without a model."""
        return "failed" in self.found

    def percent(self, test: str, part: str = "test") -> float:
        """All answers of a test; 0 for a run that ended without a model."""
        return 0.0 if self.failed else percent(self.found["scores"][part][test])


class Results:
    """All finished runs, the untouched LLM's scores, and seconds of each stage 1 by its name."""

    def __init__(
        self, llm: dict[str, Any], results: Sequence[Result], stage_1: dict[str, float]
    ) -> None:
        self.llm, self.stage_1 = llm, stage_1
        self.results = list(results)
        self.runs = {result.run for result in results}

    def before(self, test: str, part: str = "test") -> float:
        """The untouched LLM's percent; it cannot answer about pictures: 100 stands there."""
        return 100.0 if test == "pictures" else percent(self.llm[part][test])

    @property
    def guess(self) -> float:
        """Percent of the test's pictures that need no look, see `guess.py`."""
        return percent(self.llm["guess"])

    def kept(self, result: Result, test: str, part: str = "test") -> float:
        """Right answers, with the LLM's as 100; of pictures, percent of all."""
        return 100 * result.percent(test, part) / self.before(test, part)

    def worth(self, result: Result) -> float:
        """By which a rate is chosen: the mean of the three, on the validation part."""
        return sum(self.kept(result, test, "validation") for test in TESTS) / len(TESTS)

    def sweep(self, method: Method, steps: int) -> list[Result]:
        """The runs of a method's sweep that are finished, by rising rate."""
        found = [
            result
            for result in self.results
            if (result.run.method, result.run.seed, result.run.steps)
            == (method.key, SEEDS[0], steps)
            and result.run.rate in method.rates
        ]
        return sorted(found, key=lambda result: result.run.rate)

    def best(self, method: Method, steps: int) -> Result | None:
        """The run of a finished sweep whose rate is taken."""
        sweep = self.sweep(method, steps)
        return max(sweep, key=self.worth) if len(sweep) == len(method.rates) else None

    def at_best(self, method: Method, steps: int) -> list[Result]:
        """The runs of every seed at the rate that was chosen."""
        best = self.best(method, steps)
        return [] if best is None else self.of(method, best.run.rate, steps)

    def of(self, method: Method, rate: float, steps: int) -> list[Result]:
        """The runs of every seed at one rate."""
        wanted = (method.key, rate, steps)
        return [r for r in self.results if (r.run.method, r.run.rate, r.run.steps) == wanted]

    def equal_steps(self, steps: int) -> int | None:
        """Steps that take `EQUAL_TIME` as long as `TIMED_AGAINST` took, once both are known."""
        ours, theirs = (self.best(BY_KEY[key], steps) for key in (EQUAL_TIME, TIMED_AGAINST))
        if ours is None or theirs is None or ours.failed or theirs.failed:
            return None
        return round(steps * theirs.found["cpu_seconds"] / ours.found["cpu_seconds"])


def wanted(results: Results, steps: int, methods: Sequence[Method] = METHODS) -> Iterator[Run]:
    """Runs that are still to be done, as far as they are known yet, in their order."""
    for run in _all(results, steps, methods):
        if run not in results.runs:
            yield run


def _all(results: Results, steps: int, methods: Sequence[Method]) -> Iterator[Run]:
    yield from _of_tier(results, steps, methods[:FIRST])
    longer = results.equal_steps(steps)
    best = results.best(BY_KEY[EQUAL_TIME], steps)
    if longer is not None and best is not None:
        for seed in SEEDS:
            yield Run(EQUAL_TIME, best.run.rate, seed, longer)
    yield from _of_tier(results, steps, methods[FIRST:SECOND])
    for seed in SEEDS:
        for method in methods:
            if method.key in BELOW:
                yield Run(method.key, BELOW[method.key], seed, steps)
    yield from _of_tier(results, steps, methods[SECOND:])


def _of_tier(results: Results, steps: int, tier: Sequence[Method]) -> Iterator[Run]:
    for method in tier:
        for rate in method.rates:
            yield Run(method.key, rate, SEEDS[0], steps)
    for seed in SEEDS[1:]:
        for method in tier:
            best = results.best(method, steps)
            if best is not None:
                yield Run(method.key, best.run.rate, seed, steps)
