"""How far a result lies from the truth, and how far it may."""

import torch
from torch import Tensor

# Twice the error that plain low precision makes itself, and a little where that is none: half a
# step of the dtype, and fp32's accumulated rounding.
TIMES, STEPS, ROUNDING = 2.0, 0.5, 1e-6


def relative_error(found: Tensor, exact: Tensor) -> float:
    """|found - exact| / |exact| over all elements; not a number where one of them is none."""
    return float((found.double() - exact).norm() / exact.norm())


def budget(plain: Tensor, exact: Tensor) -> float:
    """What a fast version may err, by what the plain one of the same precision does."""
    rounding = STEPS * torch.finfo(plain.dtype).eps + ROUNDING
    return TIMES * relative_error(plain, exact) + rounding
