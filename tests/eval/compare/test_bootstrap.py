"""Intervals against their definition, counted out by hand."""

import itertools
import math

import numpy as np
import pytest

from wings.eval.compare.bootstrap import Estimate, bootstrap

ABOVE, BELOW = [3.0, -1.0, 0.0, 2.0, 5.0], [4, 1, 2, 6, 3]


def every_draw(above, below):
    """The ratio of every one of the N ** N equally likely draws."""
    count = len(above)
    for chosen in itertools.product(range(count), repeat=count):
        yield sum(above[n] for n in chosen) / sum(below[n] for n in chosen)


@pytest.mark.parametrize("below", [BELOW, None])
def test_an_interval_is_that_of_all_draws_there_are(below):
    ratios = list(every_draw(ABOVE, below or [1] * len(ABOVE)))
    low, high = np.quantile(ratios, [0.025, 0.975])
    found = bootstrap(ABOVE, below, draws=200_000)
    assert found.value == pytest.approx(sum(ABOVE) / sum(below or [1] * 5))
    spread = np.std(ratios)
    assert abs(found.low - low) < 0.03 * spread and abs(found.high - high) < 0.03 * spread


def test_draws_are_those_of_a_loop_with_the_same_numbers():
    rng = np.random.default_rng(7)
    ratios = []
    for _ in range(500):
        chosen = rng.integers(5, size=5)
        ratios.append(sum(ABOVE[n] for n in chosen) / sum(BELOW[n] for n in chosen))
    low, high = np.quantile(ratios, [0.025, 0.975])
    assert bootstrap(ABOVE, BELOW, seed=7, draws=500) == Estimate(9 / 16, low, high)


def test_pairs_stay_pairs():
    # One of a hundred items was lost in either: as pairs, nothing changed on any of the others.
    before = [1] * 50 + [0] * 50
    after = [0, *before[1:]]
    change = bootstrap([b - a for a, b in zip(before, after, strict=True)])
    assert change.value == -0.01 and change.high == 0.0 and -0.05 < change.low < 0


def test_seeds_and_blocks_and_single_units(monkeypatch):
    many = np.random.default_rng(0).normal(size=300)
    first = bootstrap(many, seed=1)
    assert first == bootstrap(many, seed=1) != bootstrap(many, seed=2)
    monkeypatch.setattr("wings.eval.compare.bootstrap.BLOCK", 1000)
    assert bootstrap(many, seed=1).low == pytest.approx(first.low)
    assert bootstrap([2.0], [4]) == Estimate(0.5, None, None)
    assert bootstrap([2.0], [4]).to_dict() == {"value": 0.5, "interval": None}
    assert bootstrap([0, 0, 0]) == Estimate(0.0, 0.0, 0.0)
    assert bootstrap([0, 0], [1, 9]).map(math.exp) == Estimate(1.0, 1.0, 1.0)
