"""Counts tokens, images and attention pairs of a batch, as integers on its device."""

from typing import Any

import torch
from torch import Tensor

from wings.attention.token_layout import IMAGE, PADDING, TEXT, TokenLayout
from wings.config import WingsConfig

# Places of a batch, tokens of it, image tokens among those, images, tokens that are trained, pairs
# of a token and one that it sees, and of each learner: tokens that it acts on, rows that it looks
# at, and pairs of the two.
NAMES = (
    "places", "tokens", "image_tokens", "images", "trained", "pairs",
    "image_acts", "image_rows", "image_pairs", "text_acts", "text_rows", "text_pairs",
)  # fmt: skip


def layout_of(batch: dict[str, Any], config: WingsConfig) -> TokenLayout:
    """Where every token of a batch stands, as the model reads it."""
    return TokenLayout.read(
        batch["input_ids"] == config.image_token_id,
        batch.get("attention_mask"),
        batch.get("position_ids"),
        config.image_seq_length,
    )


def count(batch: dict[str, Any], config: WingsConfig) -> Tensor:
    """The numbers of `NAMES` for one batch, int64, on its device.

    Nothing here waits for the device.
    """
    layout = layout_of(batch, config)
    is_real, is_image, is_text = (
        layout.kind != PADDING, layout.kind == IMAGE, layout.kind == TEXT,
    )  # fmt: skip
    pixels = batch.get("pixel_values")
    images = 0 if pixels is None else len(pixels)
    active = bool(config.learners) and (images > 0 or not config.text_guard)
    acts = layout.sees_image if config.text_guard else is_real
    starts = (layout.position == 0) & is_real
    # An image is seen whole from its first token on: each token of it sees those after it too.
    rest = torch.where(is_image, layout.visible_at + config.image_seq_length - 1, 0)
    rest = torch.where(is_image, rest - layout.position, 0)
    seen = {"image": so_far(is_image, starts) + rest, "text": so_far(is_text, starts)}
    numbers = [
        torch.full_like(is_real, True, dtype=torch.long).sum(), is_real.sum(), is_image.sum(),
        is_real.new_tensor(images, dtype=torch.long), (batch["labels"][:, 1:] != -100).sum(),
        torch.where(is_real, layout.position + 1, 0).sum(),
    ]  # fmt: skip
    for name, rows in (("image", is_image), ("text", is_text)):
        on = active and name in config.learners
        sees = acts & (seen[name] > 0)
        numbers += [
            part.sum() * on for part in (sees, rows, torch.where(sees, seen[name], 0))
        ]  # fmt: skip
    return torch.stack(numbers)


def so_far(found: Tensor, starts: Tensor) -> Tensor:
    """How many are found up to and with each token of its own sequence, `[B, T]` of bool each."""
    total = found.long().cumsum(1)
    before = torch.where(starts, total - found.long(), 0).cummax(1).values
    return total - before
