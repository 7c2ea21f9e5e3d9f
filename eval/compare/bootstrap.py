"""Bootstrap confidence intervals: percentiles over resampled items or documents."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

DRAWS = 10_000
LEVELS = (0.025, 0.975)
BLOCK = 2**22  # numbers drawn at a time


@dataclass(frozen=True)
class Estimate:
    """A value and its 95% interval; `low` and `high` are None for a single unit or cluster."""

    value: float
    low: float | None
    high: float | None

    def map(self, function: Callable[[float], float]) -> "Estimate":
        """Applies a non-decreasing function to the value and both ends."""
        ends = (None if end is None else function(end) for end in (self.low, self.high))
        return Estimate(function(self.value), *ends)

    @property
    def points(self) -> list[float]:
        """The value and the ends that are known."""
        return [point for point in (self.value, self.low, self.high) if point is not None]

    def to_dict(self) -> dict[str, Any]:
        """`value` and `interval`, for JSON."""
        interval = None if self.low is None else [self.low, self.high]
        return {"value": self.value, "interval": interval}


def bootstrap(
    above: Sequence[float],
    below: Sequence[float] | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    clusters: Sequence[int] | None = None,
) -> Estimate:
    """`sum(above) / sum(below)` over N units, with a percentile bootstrap interval.

    A draw resamples the N units with replacement and keeps both numbers of a unit together. So
    items stay paired before and after, and long documents keep their weight. With clusters, whole
    clusters are resampled instead of units.

    Args:
        above: [N] one number a unit.
        below: [N] its weight, such as a token count; None for a plain mean.
        seed: of the draws.
        draws: number of resamples.
        clusters: [N] the number of each unit's cluster; None if every unit is one.
    """
    top = np.asarray(above, dtype=np.float64)
    bottom = np.ones_like(top) if below is None else np.asarray(below, dtype=np.float64)
    value = math.fsum(top) / math.fsum(bottom)
    if clusters is not None:
        _, numbers = np.unique(clusters, return_inverse=True)
        # float64 already; the declared type is that of counts.
        top, bottom = (
            np.bincount(numbers, weights=one).astype(np.float64) for one in (top, bottom)
        )
    count = len(top)
    if count < 2:
        return Estimate(value, None, None)
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK // count)
    ratios = np.empty(draws)
    for start in range(0, draws, block):
        drawn = rng.integers(count, size=(min(block, draws - start), count))
        ratios[start : start + block] = top[drawn].sum(1) / bottom[drawn].sum(1)
    low, high = np.quantile(ratios, LEVELS)
    return Estimate(value, float(low), float(high))
