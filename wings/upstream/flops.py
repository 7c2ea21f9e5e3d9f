"""torch's FLOP counter with the fused attention of CPUs, which torch counts since 2.15."""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from .contract import Contract

Shape = tuple[int, ...]
_ATEN = torch.ops.aten


def _attention(query: Shape, key: Shape, value: Shape, *args: Any, **kwargs: Any) -> int:
    """Counts scores and values, one product each; a causal mask is ignored, as on a GPU."""
    rows = query[0] * query[1] * query[2] * key[2]
    return 2 * rows * (query[3] + value[3])


def _attention_backward(
    grad: Shape, query: Shape, key: Shape, value: Shape, *args: Any, **kwargs: Any
) -> int:
    """Counts the scores again, then the gradients of weights, values, queries and keys."""
    rows = query[0] * query[1] * query[2] * key[2]
    return 2 * rows * (3 * query[3] + 2 * value[3])


def _whole_attention(query: Shape, *args: Any, **kwargs: Any) -> int:
    """Counts self-attention with its projections, which frozen `nn.MultiheadAttention` runs."""
    batch, tokens, width = query
    return 2 * batch * tokens * width * (4 * width + 2 * tokens)


def flop_counter() -> FlopCounterMode:
    """A counter that prints nothing and counts every form of attention on every device."""
    return FlopCounterMode(
        display=False,
        custom_mapping={
            _ATEN._scaled_dot_product_flash_attention_for_cpu: _attention,
            _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
            _ATEN._native_multi_head_attention: _whole_attention,
        },
    )


def _check_attention() -> None:
    attend = torch.nn.functional.scaled_dot_product_attention
    rows = torch.zeros(1, 2, 5, 8, requires_grad=True)
    with flop_counter() as counter:
        attend(rows, rows, rows, is_causal=True).sum().backward()
    counted, expected = counter.get_total_flops(), 7 * 2 * 2 * 5 * 5 * 8
    assert counted == expected, f"attention counts {counted} FLOPs and not {expected}"
    frozen = torch.nn.MultiheadAttention(8, 2, batch_first=True).eval().requires_grad_(False)
    with flop_counter() as counter:
        frozen(*[rows[0].detach()] * 3, need_weights=False)
    counted, expected = counter.get_total_flops(), 2 * 2 * 5 * (4 * 8 * 8 + 2 * 5 * 8)
    assert counted == expected, f"frozen attention counts {counted} FLOPs and not {expected}"


CONTRACTS = (
    Contract(
        "torch",
        "2.11",
        "attention runs on a CPU as _scaled_dot_product_flash_attention_for_cpu and its backward, "
        "frozen nn.MultiheadAttention as _native_multi_head_attention, "
        "and FlopCounterMode asks custom_mapping with the shapes of an operation's arguments",
        ("torch.utils.flop_counter:FlopCounterMode(display, custom_mapping)",),
        check=_check_attention,
    ),
)
