"""Other versions of the two operations in the place of a model's own, while a measurement lasts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor

from wings.attention import routed_attention as plain_routed
from wings.attention.rotary import Rotation
from wings.attention.routed_attention import Rule, causal_mask
from wings.attention.source_tokens import Kept, Source
from wings.layers import lorra_attention as plain_learner
from wings.layers import lorra_decode as one_token
from wings.layers import wings_layer as block
from wings.layers.lorra import Factors

from . import products, textbook
from .row import PLAIN, WINGS


@dataclass(frozen=True)
class Operations:
    """The two functions of a block."""

    routed_attention: Callable[..., tuple[Tensor, Tensor]]
    learner_attention: Callable[..., Tensor]
    share_of_one_token: Callable[..., Tensor] = one_token.share_of_one_token


def implementations(device: torch.device) -> dict[str, Operations]:
    """What `wings` has for a device: on a card its kernels, insisted on, and its torch version."""
    if device.type != "cuda":
        return {WINGS: Operations(block.routed_attention, block.learner_attention)}
    kernels = Operations(
        partial(block.routed_attention, way="triton"),
        partial(block.learner_attention, way="triton"),
    )
    return {WINGS: kernels, PLAIN: PLAIN_OPERATIONS}


def routed_attention(
    q: Tensor, k: Tensor, v: Tensor, columns: Tensor, rule: Rule, way: str = "auto"
) -> tuple[Tensor, Tensor]:
    """The textbook's, with the arguments that blocks give; the way is its own."""
    mask = causal_mask(q, k) if rule.mask is None else rule.mask
    return textbook.routed_attention(q, k, v, columns, mask[:, 0], rule.scale)


def learner_attention(
    x: Tensor,
    inner: Tensor,
    source: Source,
    kept: Kept,
    factors: tuple[Tensor, Tensor, Tensor, Tensor],
    rotation: Rotation,
    way: str = "auto",
) -> Tensor:
    """The textbook's, with the arguments that blocks give; the way is its own."""
    sees = source.visibility.queries.sees(source.keys)
    heads = x.shape[-1] // rotation.width
    return textbook.learner_attention(
        x, inner, source.rows, kept.small, factors, heads,
        cos_sin(rotation), cos_sin(source.rotation), sees,
    )  # fmt: skip


def cos_sin(rotation: Rotation) -> tuple[Tensor, Tensor]:
    """`[B, S, d / 2]` each."""
    return rotation.cos, rotation.sin


def share_of_one_token(
    x: Tensor,
    factors: list[Factors],
    sources: list[Source],
    kept: list[Kept],
    weights: list[Tensor],
    rotation: Rotation,
) -> Tensor:
    """The textbook's, with the arguments that blocks give for one token a row."""
    share = torch.zeros_like(x)
    for own, source, of_rows, weight in zip(factors, sources, kept, weights, strict=True):
        out = learner_attention(x, x @ own.a_q, source, of_rows, own.inner, rotation)
        share = share + out * weight @ own.b_o
    return share


def plain_routed_attention(
    q: Tensor, k: Tensor, v: Tensor, columns: Tensor, rule: Rule, way: str = "auto"
) -> tuple[Tensor, Tensor]:
    """What models run where no kernel is; the way is its own."""
    return plain_routed.routed_attention(q, k, v, columns, rule)


def plain_learner_attention(
    x: Tensor,
    inner: Tensor,
    source: Source,
    kept: Kept,
    factors: tuple[Tensor, Tensor, Tensor, Tensor],
    rotation: Rotation,
    way: str = "auto",
) -> Tensor:
    """What models run where no kernel is; the way is its own."""
    return plain_learner.learner_attention(x, inner, source, kept, factors, rotation)


PLAIN_OPERATIONS = Operations(plain_routed_attention, plain_learner_attention)
TEXTBOOK_OPERATIONS = Operations(routed_attention, learner_attention, share_of_one_token)
PRODUCTS_OPERATIONS = Operations(
    products.routed_attention, products.learner_attention, products.share_of_one_token
)


@contextmanager
def in_place(chosen: Operations) -> Iterator[None]:
    """Every model runs `chosen` inside."""
    with (
        patch.object(block, "routed_attention", chosen.routed_attention),
        patch.object(block, "learner_attention", chosen.learner_attention),
        patch.object(block, "share_of_one_token", chosen.share_of_one_token),
    ):
        yield
