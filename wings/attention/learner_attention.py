"""Attention of queries to the source tokens that a `LearnerMask` lets them see, in torch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import scaled_dot_product_attention

from .learner_mask import LearnerMask, QuerySegment
from .rotary import CosSin


class Recompute(NamedTuple):
    """Keys before their rotary positions are `make(*key_parts)`, values `make(*value_parts)`."""

    make: Callable[..., Tensor]
    key_parts: tuple[Tensor, ...]
    value_parts: tuple[Tensor, ...]


def masked_softmax(scores: Tensor, mask: LearnerMask) -> Tensor:
    """Softmax of one query's `scores [B, H, S]` over what it sees; zeros where it sees nothing."""
    if mask.hidden is None:
        return scores.softmax(-1, dtype=torch.float32).to(scores.dtype)
    weights = scores.masked_fill(mask.hidden, -torch.inf).softmax(-1, dtype=torch.float32)
    return weights.to(scores.dtype).masked_fill(~mask.sees_any[..., None], 0.0)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a_o: Tensor,
    mask: LearnerMask,
    rope: CosSin,
    key_rope: CosSin | None,
    recompute: Recompute | None = None,
) -> Tensor:
    """softmax(rope(q) rope(k)^T / sqrt(d)) v, heads joined, times A_o.

    Args:
        q: `[B, T, H, d]`.
        k: `[B, S, H, d]`.
        v: `[B, S, H, d]`.
        a_o: `[H d, r]`; the product ends every piece, so that only r numbers a token move.
        mask: of these queries and keys.
        rope: of the queries' positions.
        key_rope: of the keys' positions; None for keys that are rotated already.
        recompute: how a backward makes k and v again instead of keeping them; None to keep them.

    Returns:
        `[B, T, r]`; exact zeros for queries without a key.
    """
    q = apply_rope(q, rope)
    if key_rope is not None:
        k = apply_rope(k, key_rope)
    if recompute is None:
        return attend_under_mask(q, k, v, a_o, mask)
    hooks = RecomputeHooks(recompute, k, v, key_rope)
    with saved_tensors_hooks(hooks.pack, hooks.unpack):
        return attend_under_mask(q, k, v, a_o, mask)


def attend_under_mask(q: Tensor, k: Tensor, v: Tensor, a_o: Tensor, mask: LearnerMask) -> Tensor:
    """`attend` of queries and keys that have their rotary positions already, or none."""
    if mask.mask is not None:
        return masked_attention(q, k, v, a_o, mask.mask)
    if mask.segments:
        rows = zip(q.split(1), k.split(1), v.split(1), mask.segments, strict=True)
        return torch.cat([segment_attention(*row[:3], a_o, *row[3]) for row in rows])
    sizes = [block.length for block in mask.blocks]
    parts = zip(q.split(sizes, 1), mask.blocks, strict=True)
    return torch.cat(
        [masked_attention(part, k, v, a_o, layout.sees(mask.keys)) for part, layout in parts], dim=1
    )


def masked_attention(q: Tensor, k: Tensor, v: Tensor, a_o: Tensor, mask: Tensor) -> Tensor:
    """`attend` under `mask [B, T, S]` (bool)."""
    blind = ~mask.any(-1, keepdim=True)
    # A softmax over nothing is 0 / 0, forward and backward: blind queries see every key, and their
    # result is dropped.
    q, k, v = (rows.transpose(1, 2) for rows in (q, k, v))
    out = scaled_dot_product_attention(q, k, v, attn_mask=(mask | blind)[:, None])
    return (out.transpose(1, 2).flatten(2) @ a_o).masked_fill(blind, 0.0)


def segment_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a_o: Tensor,
    segments: list[QuerySegment],
    order: Tensor | None,
) -> Tensor:
    """`attend` of one row, segment by segment, without a mask."""
    pieces = []
    for segment in segments:
        if segment.end == segment.first:
            pieces.append(q.new_zeros(1, len(segment.queries), a_o.shape[1]))
            continue
        keys = slice(segment.first, segment.end)
        query, key, value = (x.transpose(1, 2) for x in (segment.of(q), k[:, keys], v[:, keys]))
        out = scaled_dot_product_attention(query, key, value, is_causal=segment.causal)
        pieces.append(out.transpose(1, 2).flatten(2) @ a_o)
    out = torch.cat(pieces, dim=1)
    # Reordered after the last product: r numbers a token move, not the heads.
    return out if order is None else out.index_select(1, order)


class RecomputeHooks:
    """Recomputes keys and values in the backward pass instead of saving them.

    Attention's backward needs whole keys and values. Two products of rank r make them, and they
    take as much memory as everything else that a learner saves.
    """

    def __init__(self, recompute: Recompute, k: Tensor, v: Tensor, key_rope: CosSin | None) -> None:
        make, key_parts, value_parts = recompute
        self.make, self.key_rope = make, key_rope
        self.parts = {
            _storage(k): (True, [part.detach() for part in key_parts]),
            _storage(v): (False, [part.detach() for part in value_parts]),
        }

    def pack(self, saved: Tensor) -> Any:
        """The parts of a key or value that autograd would save; other tensors as they are."""
        found = self.parts.get(_storage(saved))
        if found is None:
            return saved
        return *found, saved.dtype, (saved.shape, saved.stride(), saved.storage_offset())

    def unpack(self, packed: Any) -> Tensor:
        """The tensor, recomputed if `pack` gave its parts."""
        if isinstance(packed, Tensor):
            return packed
        is_key, parts, dtype, view = packed
        with torch.no_grad():
            # Autocast set the dtype of the forward's products and is not active in a backward.
            whole = self.make(*(part.to(dtype) for part in parts))
            if is_key and self.key_rope is not None:
                whole = apply_rope(whole, self.key_rope)
            return whole.to(dtype).as_strided(*view)


def _storage(tensor: Tensor) -> int:
    """Identifies a tensor's storage; not by its address, as fake tensors have none."""
    return tensor.untyped_storage()._cdata


def apply_rope(heads: Tensor, rope: CosSin) -> Tensor:
    """Rotates `[B, S, H, d]` by its positions (halves paired, as in Llama)."""
    if rope.matrix is not None:
        # Autocast does this in a forward, and is not active when a backward recomputes keys.
        return torch.bmm(heads[:, 0], rope.matrix.to(heads.dtype))[:, None]
    if heads.requires_grad:
        return Rotate.apply(heads, rope.cos, rope.sin)
    return rotate(heads, rope.cos, rope.sin)


class Rotate(torch.autograd.Function):
    """(a, b) -> (a cos - b sin, b cos + a sin) on the two halves of the last dimension."""

    @staticmethod
    def forward(ctx: FunctionCtx, heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """heads `[B, S, H, d]`, cos `[B, S, 1, d]`, sin `[B, S, 1, d / 2]`."""
        ctx.save_for_backward(cos, sin)
        return rotate(heads, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return rotate(gradient, cos, -sin), None, None


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Computes `Rotate` in three passes over memory.

    torch's attention would read a head-major layout faster, but would then write one too. The copy
    that the product after it then takes would be kept for the backward.
    """
    rotated = heads * cos
    (a, b), (first, second) = heads.chunk(2, dim=-1), rotated.chunk(2, dim=-1)
    first.addcmul_(b, sin, value=-1)
    second.addcmul_(a, sin)
    return rotated
