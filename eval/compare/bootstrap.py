"""How sure a figure is: percentile intervals from drawing the measured units again."""

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
    """A figure and its 95% interval; `low` and `high` are None where one unit was measured, of
    which no interval can be known.
    """

    value: float
    low: float | None
    high: float | None

    def through(self, function: Callable[[float], float]) -> "Estimate":
        """The same for a function of the figure that never falls."""
        ends = (None if end is None else function(end) for end in (self.low, self.high))
        return Estimate(function(self.value), *ends)

    def to_dict(self) -> dict[str, Any]:
        """`value` and `interval`."""
        is_known = self.low is not None and self.high is not None
        interval = [self.low, self.high] if is_known else None
        return {"value": self.value, "interval": interval}


def bootstrap(
    above: Sequence[float], below: Sequence[float] | None = None, seed: int = 0, draws: int = DRAWS
) -> Estimate:
    """`sum(above) / sum(below)` over N units, and between which values it lies in 95% of draws.

    A draw takes N of the units with replacement, each with both of its numbers: so items stay
    pairs of a before and an after, and long documents keep their weight.

    Args:
        above: [N] one number a unit.
        below: [N] what it is counted in (its tokens); None for 1 each, so a plain mean.
        seed: of the draws.
        draws: how many.
    """
    top = np.asarray(above, dtype=np.float64)
    bottom = np.ones_like(top) if below is None else np.asarray(below, dtype=np.float64)
    value = math.fsum(top) / math.fsum(bottom)
    count = len(top)
    if count < 2:
        return Estimate(value, None, None)
    rng = np.random.default_rng(seed)
    rows = max(1, BLOCK // count)
    ratios = np.empty(draws)
    for start in range(0, draws, rows):
        chosen = rng.integers(count, size=(min(rows, draws - start), count))
        ratios[start : start + rows] = top[chosen].sum(1) / bottom[chosen].sum(1)
    low, high = np.quantile(ratios, LEVELS)
    return Estimate(value, float(low), float(high))
