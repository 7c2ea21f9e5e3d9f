"""Values of LoRRA attention with the last factor folded in: r numbers per key and head."""

import torch
from torch import Tensor


def lorra_values(source: Tensor, c_v: Tensor, b_v: Tensor, a_o: Tensor, heads: int) -> Tensor:
    """`U_h = (source + c_v b_v)_h A_h` with `A_h` the rows of a_o that belong to head h.

    `source_h A_h + c_v (b_v,h A_h)` needs neither the values, which are as wide as the source, nor
    a second rounding of them.

    Args:
        source: `[B, S, D]`.
        c_v: `[B, S, r]`.
        b_v: `[r, D]`.
        a_o: `[D, r]`.
        heads: H.

    Returns:
        `[H, B S, r]`, contiguous.
    """
    last = a_o.unflatten(0, (heads, -1))
    first = b_v.unflatten(1, (heads, -1)).transpose(0, 1)
    rows = source.flatten(0, 1).unflatten(1, (heads, -1)).transpose(0, 1)
    low = torch.bmm(c_v.flatten(0, 1).expand(heads, -1, -1), torch.bmm(first, last))
    return torch.baddbmm(low, rows, last)
