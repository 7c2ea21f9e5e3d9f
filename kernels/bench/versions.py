"""Versions of the two operations: wings, the textbook, flex_attention; SDPA as the baseline.

A version is a function of `RoutedInputs` or `LearnerInputs`. It returns the output `[B, T, H, d]`
and the sums `[B, T, C]` of routed attention, or the output `[B, T, r]` of a learner.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from wings.attention.routed_attention import Rule
from wings.kernels.tuning import WITH_DESCRIPTORS, descriptor_loads, major_capability
from wings.layers.dispatch import routed_attention
from wings.layers.lorra import lorra_attention

from .inputs import LearnerInputs, RoutedInputs
from .run import PLAIN, WINGS

Outputs = Tensor | tuple[Tensor, Tensor]
Version = Callable[[Any], Outputs]


def impls(device: torch.device) -> dict[str, str]:
    """The `impl` of each version of wings: kernels and torch on a GPU, torch on a CPU."""
    return {WINGS: "triton", PLAIN: "torch"} if device.type == "cuda" else {WINGS: "torch"}


def wings(impl: str) -> Version:
    """The operations that models run with this `impl`."""

    def version(at: RoutedInputs | LearnerInputs) -> Outputs:
        if isinstance(at, RoutedInputs):
            return routed_attention(at.q, at.k, at.v, at.columns, Rule(None, at.scale), impl)
        return learner(at, impl)

    return version


def can_load_by_descriptors(device: torch.device) -> bool:
    """Returns whether kernels on a device can load by descriptors (TMA)."""
    return device.type == "cuda" and major_capability(device) >= WITH_DESCRIPTORS


def with_descriptors(version: Version) -> Version:
    """A version whose kernels load by descriptors where they can."""

    def loading(at: RoutedInputs | LearnerInputs) -> Outputs:
        with descriptor_loads():
            return version(at)

    return loading


def learner(at: LearnerInputs, impl: str = "torch", recompute_kv: bool = False) -> Tensor:
    """A learner's attention; with `recompute_kv` its backward makes keys and values again."""
    source = at.source(impl, recompute_kv)
    return lorra_attention(
        at.x, at.query_part, source, at.compressed, None, at.factors, at.rope, impl
    )


def sdpa(at: RoutedInputs) -> Tensor:
    """The attention of a block of the bare LLM."""
    return scaled_dot_product_attention(at.q, at.k, at.v, is_causal=True, enable_gqa=True)


def textbook(at: RoutedInputs | LearnerInputs) -> Outputs:
    """The definition, with whole matrices of weights; checks run it in float64."""
    if isinstance(at, RoutedInputs):
        return textbook_routed(at.q, at.k, at.v, at.columns, at.visible, at.scale)
    q, k, v = learner_heads(at)
    weights = attention_weights(q, k, at.visible, q.shape[-1] ** -0.5)
    return (weights @ v).transpose(1, 2).flatten(2) @ at.a_o


def textbook_routed(
    q: Tensor, k: Tensor, v: Tensor, columns: Tensor, visible: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Routed attention by definition under `visible [B or 1, T, S]`."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    weights = attention_weights(q, k, visible, scale)
    return (weights @ v).transpose(1, 2), weights.mean(1).to(columns.dtype) @ columns


def attention_weights(q: Tensor, k: Tensor, visible: Tensor, scale: float) -> Tensor:
    """`[B, H, T, S]`, zero for queries that see no key; the softmax in fp32 or wider."""
    hidden = ~visible[:, None]
    scores = (q @ k.transpose(2, 3) * scale).masked_fill(hidden, torch.finfo(q.dtype).min)
    weights = scores.softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)
    return weights.masked_fill(hidden, 0.0)


def learner_heads(at: LearnerInputs) -> tuple[Tensor, Tensor, Tensor]:
    """rope(Q), rope(K) and V of a learner, `[B, H, T or S, d]`."""

    def split(wide: Tensor) -> Tensor:
        return wide.unflatten(-1, (at.heads, -1)).transpose(1, 2)

    c_k, c_v = at.compressed.unbind(1)
    source = at.tensors["tokens"]
    q = rotated(split(at.x + at.query_part @ at.b_q), at.rope.table)
    k = rotated(split(source + c_k @ at.b_k), at.key_rope.table)
    return q, k, split(source + c_v @ at.b_v)


def rotated(heads: Tensor, table: Tensor) -> Tensor:
    """RoPE on paired halves of `[B, H, S, d]`: (a, b) -> (a cos - b sin, b cos + a sin)."""
    cos, sin = table[:, None].chunk(2, dim=-1)
    a, b = heads.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def flex(given: RoutedInputs | LearnerInputs) -> Version:
    """torch's flex_attention, compiled for inputs of the shape and layout of `given`.

    The visibility of a learner is a `mask_mod`. The router's sums are further columns of the
    values, where it allows values of another width.
    """
    # A dynamic length would make slower code. After some recompilations of one function torch would
    # run it uncompiled without a message.
    torch.compiler.reset()
    attention = torch.compile(flex_attention, dynamic=False)
    # Made once, as a forward makes it once for all blocks.
    mask = block_mask(given.position, given.visible_at)

    def version(at: RoutedInputs | LearnerInputs) -> Outputs:
        if isinstance(at, LearnerInputs):
            out = attention(*learner_heads(at), block_mask=mask)
            return out.transpose(1, 2).flatten(2) @ at.a_o
        width = at.v.shape[-1]
        columns = at.columns[:, None].expand(-1, at.v.shape[1], -1, -1).to(at.v.dtype)
        values = torch.cat([at.v, columns], dim=-1)
        grouped = at.q.shape[1] != at.k.shape[1]
        out = attention(at.q, at.k, values, block_mask=mask, scale=at.scale, enable_gqa=grouped)
        return out[..., :width].transpose(1, 2), out[..., width:].mean(1).to(at.columns.dtype)

    return version


def block_mask(position: Tensor, visible_at: Tensor) -> BlockMask:
    """Keys whose `visible_at [B, S]` is at most the `position [B, T]` of a query."""
    position, visible_at = position.to(torch.int32).clone(), visible_at.to(torch.int32).clone()

    def visible(row: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return visible_at[row, key] <= position[row, query]

    batch, length = position.shape
    return create_block_mask(
        visible, batch, None, length, visible_at.shape[1], device=position.device
    )
