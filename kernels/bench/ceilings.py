"""What the machine does at best: a large copy and a large matrix product."""

from dataclasses import dataclass

import torch

from .clock import Clock

# Bytes copied per byte of the matrices, so that no cache holds what is copied.
COPIED = 4


@dataclass(frozen=True)
class Ceilings:
    """Operations of matrix products, and bytes moved, a second."""

    operations: float
    bytes: float


def measure_ceilings(clock: Clock, dtype: torch.dtype, edge: int) -> Ceilings:
    """Random numbers, in the run's own precision; the fastest of all rounds.

    A copy counts the bytes it reads and those it writes.
    """
    a, b = (torch.randn(edge, edge, device=clock.device).to(dtype) for _ in range(2))
    source = torch.randn(COPIED * edge, edge, device=clock.device).to(dtype)
    target = torch.empty_like(source)
    timings = clock.device_only(
        {"product": lambda: torch.mm(a, b), "copy": lambda: target.copy_(source)}
    )
    moved = 2 * source.numel() * source.element_size()
    product, copy = (min(timings[name].seconds) for name in ("product", "copy"))
    return Ceilings(2 * edge**3 / product, moved / copy)
