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


def folded_gradients(
    source: Tensor, c_v: Tensor, b_v: Tensor, a_o: Tensor, d_u: Tensor, heads: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the four tensors of `folded_values`, given that of U, `[H, B S, r]`.

    With W_h = b_v,h A_h: d source_h = dU_h A_h^T, d c_v = sum_h dU_h W_h^T, d W_h = c_v^T dU_h,
    d b_v,h = dW_h A_h^T and d A_h = source_h^T dU_h + b_v,h^T dW_h.
    """
    out_factor = a_o.unflatten(0, (heads, -1))
    value_factor = b_v.unflatten(1, (heads, -1)).transpose(0, 1)
    rows = source.flatten(0, 1).unflatten(1, (heads, -1)).transpose(0, 1)
    low = c_v.flatten(0, 1)
    d_source = torch.bmm(d_u, out_factor.mT).transpose(0, 1).flatten(1).view(source.shape)
    # All heads in one product, which adds them up in fp32.
    joined = torch.bmm(value_factor, out_factor).mT.flatten(0, 1)
    d_c_v = (d_u.transpose(0, 1).flatten(1) @ joined).view(c_v.shape)
    d_joined = torch.bmm(low.mT.expand(heads, -1, -1), d_u)
    d_b_v = torch.bmm(d_joined, out_factor.mT).transpose(0, 1).flatten(1)
    d_a_o = torch.baddbmm(torch.bmm(rows.mT, d_u), value_factor.mT, d_joined).flatten(0, 1)
    return d_source, d_c_v, d_b_v, d_a_o
