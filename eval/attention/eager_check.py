"""Checks that the measured attention equals a decoder's own, on a few queries."""

from typing import Any

import torch
from torch import Tensor, nn

from wings.errors import WingsError
from wings.upstream.attention import eager_attention_of

QUERIES = 8  # compared in each attention
# Largest difference explained by rounding, as a share of the largest value.
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
        module: the attention that is measured.
        heads: query `[B, H, T, d]`, key and value `[B, G, S, ...]`.
        columns: `[B, S, C]`.
        mask: `[B or 1, 1, T, S]` bool, or None for causal.
        kwargs: further arguments that the family passes to its attention.
        ours: the computed output `[B, T, H, e]` and sums `[B, T, C]`.

    Raises:
        WingsError: they differ by more than rounding, or the family has no eager attention.
    """
    query, key, value = heads
    eager = eager_attention_of(type(module))
    if eager is None:
        raise WingsError(
            f"{type(module).__name__} has no eager attention to compare with, so its attention "
            "shift cannot be measured."
        )
    length, size = query.shape[2], key.shape[2]
    rows = torch.linspace(0, length - 1, min(QUERIES, length), device=query.device).long()
    if mask is None:
        slot = torch.arange(size, device=query.device)
        visible = (slot <= (rows + size - length)[:, None])[None, None]
    else:
        visible = mask[:, :, rows]
    lowest = torch.finfo(query.dtype).min
    additive = torch.zeros(visible.shape, dtype=query.dtype, device=query.device)
    additive = additive.masked_fill(~visible, lowest)
    output, weights = eager(module, query[:, :, rows], key, value, additive, **kwargs)
    sums = weights.mean(1).to(columns.dtype) @ columns
    # Queries that see no key are padding; families treat them differently.
    sees = visible.any(-1)[:, 0, :, None]
    shared = min(output.shape[-1], ours[0].shape[-1])
    pairs = (
        (output[..., :shared].flatten(2), ours[0][:, rows, :, :shared].flatten(2)),
        (sums, ours[1][:, rows]),
    )
    rounding = ROUNDING.get(query.dtype, LOW_PRECISION_ROUNDING)
    if torch.is_autocast_enabled(query.device.type):
        rounding = LOW_PRECISION_ROUNDING
    for expected, measured in pairs:
        expected, measured = expected.float() * sees, measured.float() * sees
        allowed = rounding * expected.abs().max()
        error = (expected - measured).abs().max()
        if not error <= allowed:
            raise WingsError(
                f"{type(module).__name__} computes attention differently (its eager attention "
                f"differs by {error:.2g}, rounding explains {allowed:.2g}), so its attention shift "
                "cannot be measured."
            )
