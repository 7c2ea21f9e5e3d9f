"""Kinds of keys: what attention can fall on, as seen from the pictures of a row."""

import torch
from torch import Tensor

# In the order of the columns. `sink` is the first token, if it is no image.
KINDS = ("sink", "before", "image", "between", "after")


def key_kinds(is_image: Tensor, real: Tensor) -> Tensor:
    """Which kind each token is, as a key: `[B, T]` bool twice -> `[B, T, 5]` of 0 and 1, float32.

    Text is `before` the row's first image token, `after` its last, or `between`; a row without an
    image has only `before`. Padding is of no kind.
    """
    image = is_image & real
    begun = image.cumsum(1) > 0
    over = image.flip(1).cumsum(1).flip(1) == 0
    text = real & ~image
    sink = text & (real.cumsum(1) == 1)
    before, after = text & ~begun & ~sink, text & begun & over
    between = text & begun & ~over
    return torch.stack([sink, before, image, between, after], dim=-1).float()
