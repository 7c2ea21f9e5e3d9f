"""A learner's attention in plain torch."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from wings.attention.rotary import Rotation
from wings.attention.source_tokens import Kept, Source


def learner_attention(
    x: Tensor,
    inner: Tensor,
    source: Source,
    kept: Kept,
    factors: tuple[Tensor, Tensor, Tensor, Tensor],
    rotation: Rotation,
) -> Tensor:
    r"""softmax(rope(Q) rope(K)^T / sqrt(d)) V A_o under the rule of visibility.

    Q = x + (x A_q) B_q, K = s + (s A_k) B_k, V = s + (s A_v) B_v (Wings, section 3.2), with heads
    as wide as the rotation.

    Args:
        x: the block's normed input, `[B, T, D]`.
        inner: x A_q, `[B, T, r]`.
        source: the modality's rows s, `[B, S, D]`, and what goes with them.
        kept: s A_k and s A_v, `[B, 2, S, r]`, and maybe rope(K).
        factors: B_q, B_k, B_v `[r, D]` and A_o `[D, r]`.
        rotation: of the positions of the T tokens.

    Returns:
        `[B, T, r]`, what B_o is applied to; exact zeros for tokens that see no row.
    """
    b_q, b_k, b_v, a_o = factors
    key_part, value_part = kept.small.unbind(1)
    q = rotation(expanded(x, inner, b_q, rotation))
    if kept.keys is None:
        k = turned_keys(source.rows, key_part, b_k, source.rotation)
    else:
        k = kept.keys.permute(0, 3, 1, 2)
    v = expanded(source.rows, value_part, b_v, rotation)
    if not source.remakes or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return source.visibility.attend(q, k, v, a_o)
    for_keys, for_values = (source.rows, key_part, b_k), (source.rows, value_part, b_v)
    again = Remade()
    again.add(k, for_keys, partial(turned_keys, rotation=source.rotation))
    again.add(v, for_values, partial(expanded, rotation=rotation))
    with saved_tensors_hooks(again.leave_out, again.make):
        return source.visibility.attend(q, k, v, a_o)


class Remade:
    """Tensors that autograd would keep for a backward, and that are made again there instead.

    Attention's backward wants whole keys and values, which cost two products of rank r to make and
    as much room as all else that a learner keeps.
    """

    def __init__(self) -> None:
        self._how: dict[int, tuple[list[Tensor], Callable[..., Tensor]]] = {}

    def add(self, tensor: Tensor, parts: tuple[Tensor, ...], how: Callable[..., Tensor]) -> None:
        """`how(*parts)` makes this tensor."""
        kept = [part.detach() for part in parts]
        self._how[_storage(tensor)] = kept, how

    def leave_out(self, saved: Tensor) -> Any:
        """What to keep in the place of a tensor that autograd would save."""
        how = self._how.get(_storage(saved))
        if how is None:
            return saved
        return *how, saved.dtype, (saved.shape, saved.stride(), saved.storage_offset())

    @staticmethod
    def make(kept: Any) -> Tensor:
        """The tensor again, from what `leave_out` gave."""
        if isinstance(kept, Tensor):
            return kept
        parts, how, dtype, view = kept
        with torch.no_grad():
            # Autocast gave its dtype to the forward's products, but is not there in a backward.
            return how(*(part.to(dtype) for part in parts)).to(dtype).as_strided(*view)


def _storage(tensor: Tensor) -> int:
    """Which memory a tensor lies in; not where, as a tensor without numbers lies nowhere."""
    return tensor.untyped_storage()._cdata


def turned_keys(rows: Tensor, key_part: Tensor, b_k: Tensor, rotation: Rotation) -> Tensor:
    """rope(s + (s A_k) B_k): `[B, S, D]`, `[B, S, r]`, `[r, D]` -> `[B, S, H, d]`."""
    return rotation(expanded(rows, key_part, b_k, rotation))


def expanded(rows: Tensor, inner: Tensor, outer: Tensor, rotation: Rotation) -> Tensor:
    """rows + inner outer, as heads: `[B, S, D]`, `[B, S, r]`, `[r, D]` -> `[B, S, H, d]`."""
    whole = torch.addmm(rows.flatten(0, 1), inner.flatten(0, 1), outer)
    return whole.view(*rows.shape[:2], -1, rotation.table.shape[-1])
