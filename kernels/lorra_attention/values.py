"""Values of LoRRA attention with the output factor folded in: r numbers per key and head."""

import torch
from torch import Tensor


def folded_values(source: Tensor, c_v: Tensor, b_v: Tensor, a_o: Tensor, heads: int) -> Tensor:
    """`U_h = (source + c_v b_v)_h A_h`, where `A_h` are the rows of a_o that belong to head h.

    Computed as `source_h A_h + c_v (b_v,h A_h)`, so the values, D numbers per key, are never
    stored or rounded.

    Args:
        source: `[B, S, D]`.
        c_v: `[B, S, r]`.
        b_v: `[r, D]`.
        a_o: `[D, r]`.
        heads: H.

    Returns:
        `[H, B S, r]`, contiguous.
    """
    # Heads first: one batched matmul, and each head's values are contiguous for the kernels.
    out_factor = a_o.unflatten(0, (heads, -1))
    value_factor = b_v.unflatten(1, (heads, -1)).transpose(0, 1)
    rows = source.flatten(0, 1).unflatten(1, (heads, -1)).transpose(0, 1)
    low_rank = torch.bmm(
        c_v.flatten(0, 1).expand(heads, -1, -1), torch.bmm(value_factor, out_factor)
    )
    return torch.baddbmm(low_rank, rows, out_factor)
