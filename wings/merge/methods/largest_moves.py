"""The elements that a child moved most."""

import numpy as np
import torch
from torch import Tensor

from ..chunks import chunks


def largest_moves(base: Tensor, child: Tensor, density: float) -> Tensor | None:
    """Marks the share `density` of the elements with the largest |child - base|.

    At least one is marked where the density is above 0. Of equal moves the first ones are marked.

    Args:
        base, child: of one shape.
        density: share of the elements, from 0 to 1.

    Returns:
        Flat booleans; None for all elements.
    """
    if density >= 1:
        return None
    before, after = base.reshape(-1), child.reshape(-1)
    count = before.numel()
    mask = torch.zeros(count, dtype=torch.bool)
    if density <= 0 or count == 0:
        return mask
    wanted = max(1, int(density * count))
    # A partition in place takes a third of the memory of an order.
    sizes = np.empty(count, np.float32)
    for part in chunks(count):
        sizes[part] = _size(before[part], after[part]).numpy()
    sizes.partition(count - wanted)
    least = float(sizes[count - wanted])
    # The threshold is the smallest of the last ones, so no larger move is before it.
    equal = wanted - sum(int((sizes[count - wanted :][p] > least).sum()) for p in chunks(wanted))
    del sizes
    for part in chunks(count):
        size = _size(before[part], after[part])
        mask[part] = size > least
        if equal and least:
            first = (size == least).nonzero().flatten()[:equal]
            mask[part][first] = True
            equal -= len(first)
    return mask


def _size(before: Tensor, after: Tensor) -> Tensor:
    wide = torch.promote_types(torch.promote_types(before.dtype, after.dtype), torch.float32)
    return (after.to(wide) - before.to(wide)).abs_().float()
