"""The textbook's operations in the place of a model's own, for as long as a measurement lasts."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from torch import Tensor

from wings import block
from wings.routed_attention import Rule
from wings.visible_attention import Visibility

from . import textbook


def routed_attention(
    q: Tensor, k: Tensor, v: Tensor, columns: Tensor, rule: Rule
) -> tuple[Tensor, Tensor]:
    mask = block.causal_mask(q, k) if rule.mask is None else rule.mask
    return textbook.routed_attention(q, k, v, columns, mask[:, 0], rule.scale)


def attend(visibility: Visibility, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    sees = visibility.queries.sees(visibility.keys)
    return textbook.attention_weights(q, k, sees, q.shape[-1] ** -0.5) @ v


@contextmanager
def textbook_model() -> Iterator[None]:
    """Every model's operations are the textbook's inside."""
    with (
        patch.object(block, "routed_attention", routed_attention),
        patch.object(Visibility, "attend", attend),
    ):
        yield
