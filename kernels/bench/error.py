"""How far a result lies from the truth, and how far it may."""

from torch import Tensor

# Twice the error that plain low precision makes itself, and a little where that is none.
TIMES, ROUNDING = 2.0, 1e-6


def relative_error(found: Tensor, exact: Tensor) -> float:
    """|found - exact| / |exact| over all elements; not a number where one of them is none."""
    return float((found.double() - exact).norm() / exact.norm())


def budget(plain: Tensor, exact: Tensor) -> float:
    """What a fast version may err, by what the plain one of the same precision does."""
    return TIMES * relative_error(plain, exact) + ROUNDING
