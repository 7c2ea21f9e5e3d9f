"""Other versions of the two operations in the place of a model's own, while a measurement lasts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import torch
from torch import Tensor

from wings import block
from wings.learner_attention import Factors
from wings.rotary import Rotation
from wings.routed_attention import Rule, causal_mask
from wings.source import Kept, Source

from . import textbook
from .row import WINGS


@dataclass(frozen=True)
class Operations:
    """The two functions of a block."""

    routed_attention: Callable
    learner_attention: Callable


def implementations(device: torch.device) -> dict[str, Operations]:
    """What `wings` chooses on a device, and its torch version where that is another."""
    return {WINGS: Operations(block.routed_attention, block.learner_attention)}


def routed_attention(
    q: Tensor, k: Tensor, v: Tensor, columns: Tensor, rule: Rule
) -> tuple[Tensor, Tensor]:
    """The textbook's, with the arguments that blocks give."""
    mask = causal_mask(q, k) if rule.mask is None else rule.mask
    return textbook.routed_attention(q, k, v, columns, mask[:, 0], rule.scale)


def learner_attention(
    x: Tensor, inner: Tensor, source: Source, kept: Kept, factors: Factors, rotation: Rotation
) -> Tensor:
    """The textbook's, with the arguments that blocks give."""
    sees = source.visibility.queries.sees(source.keys)
    turns = [(turn.cos, turn.sin) for turn in (rotation, source.rotation)]
    heads = x.shape[-1] // rotation.table.shape[-1]
    return textbook.learner_attention(
        x, inner, source.rows, kept.small, factors, heads, *turns, sees
    )


TEXTBOOK_OPERATIONS = Operations(routed_attention, learner_attention)


@contextmanager
def in_place(chosen: Operations) -> Iterator[None]:
    """Every model runs `chosen` inside."""
    with (
        patch.object(block, "routed_attention", chosen.routed_attention),
        patch.object(block, "learner_attention", chosen.learner_attention),
    ):
        yield
