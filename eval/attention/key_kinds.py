"""Kinds of keys: the first token, text before, between and after items, and items by sense."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Kinds of keys, in the order of the columns. `sink` is the first token, unless it is an item's.
KEY_KINDS = ("sink", "before", "image", "between", "after")


def key_kinds_of(senses: Sequence[str]) -> tuple[str, ...]:
    """The kinds of keys with these senses instead of images."""
    return (*KEY_KINDS[:2], *senses, *KEY_KINDS[3:])


def key_kinds(is_item: Tensor, real: Tensor) -> Tensor:
    """One-hot kinds of tokens as keys: `[B, T]` or `[B, T, S]` and `[B, T]` -> `[B, T, 4 + S]`.

    Text is `before` the row's first token of an item, `after` its last, or `between`; in a row
    without an item all text is `before`. Padding has no kind.

    Args:
        is_item: bool, True at the tokens of images, or of the items of each of S senses.
        real: bool, False at padding.

    Returns:
        float32.
    """
    items = (is_item if is_item.dim() == 3 else is_item[..., None]) & real[..., None]
    item = items.any(-1)
    begun = item.cumsum(1) > 0
    over = item.flip(1).cumsum(1).flip(1) == 0
    text = real & ~item
    sink = text & (real.cumsum(1) == 1)
    before, after = text & ~begun & ~sink, text & begun & over
    between = text & begun & ~over
    kinds = [sink, before, *items.unbind(-1), between, after]
    return torch.stack(kinds, dim=-1).float()
