"""Methods against one another, question by question."""

from collections.abc import Iterable

from wings.eval.compare.bootstrap import Estimate, bootstrap

from .figures import means
from .measure import TESTS
from .methods import BY_KEY
from .runs import BELOW, Result, Results

PAIRS = (
    ("wings-frozen", "full"),
    ("wings-retention", "full"),
    ("wings-retention", "full-text-turns"),
    ("wings-retention", "lora"),
    ("wings-retention", "projector"),
    ("wings-retention", "wings-text-turns"),
    ("wings-text-turns", "wings-frozen"),
    ("wings-text-turns", "full-text-turns"),
    ("full-text-turns", "full"),
    ("full-replay", "full"),
    ("lora", "full"),
    ("wings", "full"),
    ("wings-fresh", "full"),
    ("wings-fresh", "wings-frozen"),
    ("wings-attended", "wings-frozen"),
    ("wings-attended", "wings-text-turns"),
    ("wings-attended", "full"),
    ("wings-attended-text-turns", "wings-attended"),
    ("wings-attended-text-turns", "wings-retention"),
    ("wings-attended-text-turns", "full-text-turns"),
    ("wings-attended", "projector"),
    ("prefix", "projector"),
    ("wings-modality", "wings"),
    ("wings-no-router", "wings"),
    ("wings-visual", "wings"),
    ("wings-textual", "wings"),
    ("wings-normalized", "wings"),
)


# What stands against the rates below a sweep, too.
AGAINST_BELOW = ("wings-attended", "wings-attended-text-turns")


def pair_rows(results: Results, steps: int) -> Iterable[tuple[str, ...]]:
    """Points that the first of each pair has more than the second, at their chosen rates."""
    for pair in sides(results, steps):
        runs = [found for _, found in pair]
        # One seed says which way the order of the data fell, and little else.
        if min(map(len, runs)) > 1 and not any(run.failed for found in runs for run in found):
            found = (difference(*(means(one, test) for one in runs)) for test in TESTS)
            yield (" - ".join(name for name, _ in pair), *map(spelled, found))


def sides(results: Results, steps: int) -> Iterable[tuple[tuple[str, list[Result]], ...]]:
    """The two of every pair, each with its name and the runs of its seeds."""

    def chosen(key: str) -> tuple[str, list[Result]]:
        return BY_KEY[key].name, results.at_best(BY_KEY[key], steps)

    for ours, theirs in PAIRS:
        yield chosen(ours), chosen(theirs)
    for key, rate in BELOW.items():
        method = BY_KEY[key]
        for ours in AGAINST_BELOW:
            below = f"{method.name}, below its sweep", results.of(method, rate, steps)
            yield chosen(ours), below


def difference(ours: list[float], theirs: list[float]) -> Estimate:
    """Of the same questions, in points of all of them."""
    pairs = zip(ours, theirs, strict=True)
    return bootstrap([a - b for a, b in pairs]).map(lambda value: 100 * value)


def spelled(estimate: Estimate) -> str:
    """`+5.0 (1.8 to 8.3)`."""
    return f"{estimate.value:+.1f} ({estimate.low:.1f} to {estimate.high:.1f})"
