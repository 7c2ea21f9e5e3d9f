"""A learner's attention in plain torch: of a whole text, and of one token while decoding."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from .rotary import Rotation
from .source import Factors, Kept, Source


def learner_attention(
    x: Tensor, inner: Tensor, source: Source, kept: Kept, factors: Factors, rotation: Rotation
) -> Tensor:
    r"""softmax(rope(Q) rope(K)^T / sqrt(d)) V A_o under the rule of visibility.

    Q = x + (x A_q) B_q, K = s + (s A_k) B_k, V = s + (s A_v) B_v (Wings, section 3.2), with heads
    as wide as the rotation.

    Args:
        x: the block's normed input, `[B, T, D]`.
        inner: x A_q, `[B, T, r]`.
        source: the modality's rows s, `[B, S, D]`, and what goes with them.
        kept: s [A_k | A_v], `[B, S, 2 r]`, and maybe rope(K).
        factors: B_q, B_k, B_v `[r, D]` and A_o `[D, r]`.
        rotation: of the positions of the T tokens.

    Returns:
        `[B, T, r]`, what B_o is applied to; exact zeros for tokens that see no row.
    """
    if x.shape[1] == 1:
        return one_token(x, inner, source, kept, factors, rotation)
    b_q, b_k, b_v, a_o = factors
    key_part, value_part = kept.small.chunk(2, dim=-1)
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
    again.add(k, for_keys, lambda *parts: turned_keys(*parts, source.rotation))
    again.add(v, for_values, lambda *parts: expanded(*parts, rotation))
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


def one_token(
    x: Tensor, inner: Tensor, source: Source, kept: Kept, factors: Factors, rotation: Rotation
) -> Tensor:
    """`learner_attention` for T = 1: no value is made whole, and no key unless it was kept."""
    b_q, b_k, b_v, a_o = factors
    g = rotation(expanded(x, inner, b_q, rotation))
    batch, _, heads, head_width = g.shape
    g = g * head_width**-0.5
    key_part, value_part = kept.small.chunk(2, dim=-1)
    if kept.keys is not None:
        keys = kept.keys.flatten(0, 1)
        scores = torch.bmm(g.view(batch * heads, 1, head_width), keys).view(batch, heads, -1)
    else:
        scores = (g.transpose(1, 2) @ source.turned.permute(0, 2, 3, 1))[:, :, 0]
        scores = scores + low_rank_scores(g, key_part, b_k, source.rotation)
    weights = source.visibility.weigh(scores)

    # Values are weighed first and expanded afterwards.
    rows = source.rows.unflatten(-1, (heads, head_width)).transpose(1, 2)
    out = (weights[:, :, None] @ rows)[:, :, 0].transpose(0, 1)
    by_head = b_v.unflatten(-1, (heads, -1)).transpose(0, 1)
    out = torch.baddbmm(out, (weights @ value_part).transpose(0, 1), by_head)
    return out.transpose(0, 1).reshape(batch, 1, -1) @ a_o


def low_rank_scores(g: Tensor, key_part: Tensor, b_k: Tensor, rotation: Rotation) -> Tensor:
    """g rope(c B_k)^T for one query, `[B, H, S]`, without the keys.

    With c_j a row of `key_part` and (1, 2) the halves that rope pairs, a head's score is the sum
    over pairs of c_j (B^1 g^1 + B^2 g^2) cos_j + c_j (B^1 g^2 - B^2 g^1) sin_j: the factor takes
    in the query, and each key only brings its cos and sin.

    Args:
        g: rope(Q), `[B, 1, H, d]`, scaled.
        key_part: s A_k, `[B, S, r]`.
        b_k: `[r, D]`.
        rotation: of the S positions.
    """
    heads = g.shape[2]
    first, second = b_k.unflatten(-1, (heads, 2, -1)).unbind(2)
    g_first, g_second = g.unflatten(-1, (2, -1)).unbind(3)
    folded = torch.cat(
        [first * g_first + second * g_second, first * g_second - second * g_first], dim=-1
    )
    spread = (key_part @ folded.flatten(2)).unflatten(-1, (heads, -1))
    return (spread @ rotation.table[..., None])[..., 0].transpose(1, 2)
