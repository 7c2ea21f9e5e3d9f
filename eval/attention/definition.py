"""Whether a decoder's attention is the one that is measured: a few rows of both, compared."""

from typing import Any

import torch
from torch import Tensor, nn

from wings.errors import WingsError
from wings.upstream.attention import eager_attention_of

# So many queries of every attention are compared.
ROWS = 8
# How far the two may lie apart, as a share of the largest value: rounding, not error.
ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-3}
LOW_PRECISION_ROUNDING = 5e-2


def validate_attention(
    module: nn.Module,
    heads: tuple[Tensor, Tensor, Tensor],
    columns: Tensor,
    mask: Tensor | None,
    kwargs: dict[str, Any],
    ours: tuple[Tensor, Tensor],
) -> None:
    """Compares with the family's eager attention, whose weights are the definition.

    Args:
        module: the attention that was asked.
        heads: query `[B, H, T, d]`, key and value `[B, G, S, ...]`.
        columns: `[B, S, C]`.
        mask: `[B or 1, 1, T, S]` bool, or None for causal.
        kwargs: what else the family hands to its attention.
        ours: the output `[B, T, H, e]` and the sums `[B, T, C]` that were computed of them.

    Raises:
        WingsError: they differ by more than rounding, or there is nothing to compare with.
    """
    query, key, value = heads
    eager = eager_attention_of(type(module))
    if eager is None:
        raise WingsError(
            f"{type(module).__name__} has no eager attention to compare with, so the model's "
            f"attention shift cannot be measured."
        )
    length, size = query.shape[2], key.shape[2]
    rows = torch.linspace(0, length - 1, min(ROWS, length), device=query.device).long()
    if mask is None:
        slot = torch.arange(size, device=query.device)
        some = (slot <= (rows + size - length)[:, None])[None, None]
    else:
        some = mask[:, :, rows]
    lowest = torch.finfo(query.dtype).min
    additive = torch.zeros(some.shape, dtype=query.dtype, device=query.device)
    additive = additive.masked_fill(~some, lowest)
    output, weights = eager(module, query[:, :, rows], key, value, additive, **kwargs)
    sums = weights.mean(1).to(columns.dtype) @ columns
    # Queries that see nothing are padding, which attends as a family likes.
    sees = some.any(-1)[:, 0, :, None]
    shared = min(output.shape[-1], ours[0].shape[-1])
    pairs = (
        (output[..., :shared].flatten(2), ours[0][:, rows, :, :shared].flatten(2)),
        (sums, ours[1][:, rows]),
    )
    rounding = ROUNDING.get(query.dtype, LOW_PRECISION_ROUNDING)
    if torch.is_autocast_enabled(query.device.type):
        rounding = LOW_PRECISION_ROUNDING
    for theirs, own in pairs:
        theirs, own = theirs.float() * sees, own.float() * sees
        allowed = rounding * theirs.abs().max()
        error = (theirs - own).abs().max()
        if not error <= allowed:
            raise WingsError(
                f"{type(module).__name__} attends in a way of its own (its eager attention differs "
                f"by {error:.2g} where rounding explains {allowed:.2g}), so the model's attention "
                f"shift cannot be measured."
            )
