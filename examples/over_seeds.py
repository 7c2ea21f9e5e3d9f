"""Means over seeds and questions, with intervals over both."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]  # [seeds, questions]
DRAWS = 4000


@dataclass(frozen=True)
class Figure:
    """A mean over seeds and questions, and its 95% interval over both."""

    value: float
    low: float
    high: float

    def text(self, digits: int = 1) -> str:
        """`84.2 (81.0 to 87.1)`."""
        return f"{self.value:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def digits(text: str) -> Matrix:
    """`[n]` of a text of 0 and 1."""
    return np.array([float(one) for one in text])


def mean(
    rows: Sequence[Matrix],
    weights: Matrix | None = None,
    clusters: Sequence[int] | None = None,
) -> Figure:
    """The mean over seeds and questions; a draw resamples both with replacement.

    Args:
        rows: `[n]` a seed, sums over a question; the same questions for every seed.
        weights: `[n]` of the questions, such as tokens; None for 1.
        clusters: `[n]` the number of each question's cluster, which are drawn whole; None if every
            question is one.
    """
    matrix = np.stack(rows)
    below = np.ones(matrix.shape[1]) if weights is None else weights
    value = matrix.mean(0).sum() / below.sum()
    if clusters is not None:
        _, numbers = np.unique(clusters, return_inverse=True)
        matrix = np.stack([np.bincount(numbers, weights=row) for row in matrix])
        below = np.bincount(numbers, weights=below).astype(np.float64)
    low, high = np.quantile(_resampled(matrix, below), (0.025, 0.975))
    return Figure(float(value), float(low), float(high))


def _resampled(matrix: Matrix, below: Matrix) -> Matrix:
    """The mean of each of `DRAWS` draws."""
    (seeds, count), rng = matrix.shape, np.random.default_rng(0)
    rows = rng.integers(seeds, size=(DRAWS, seeds))
    columns = rng.integers(count, size=(DRAWS, count))
    above = sum(matrix[rows[:, n]] for n in range(seeds)) / seeds
    return np.take_along_axis(above, columns, 1).sum(1) / below[columns].sum(1)
