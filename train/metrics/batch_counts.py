"""Counts tokens, images and attention pairs of a batch, as integers on its device."""

from typing import Any

import torch
from torch import Tensor

from wings.attention.token_layout import IMAGE, PADDING, TEXT, TokenLayout
from wings.config import WingsConfig
from wings.model.inputs import kinds_of

# Places, tokens, image tokens, images, trained tokens, pairs of a token and a visible one; then per
# learner: tokens that query it, its source tokens, and pairs of both.
NAMES = (
    "places", "tokens", "image_tokens", "images", "trained", "pairs",
    "image_queries", "image_sources", "image_pairs",
    "text_queries", "text_sources", "text_pairs",
)  # fmt: skip


def layout_of(batch: dict[str, Any], config: WingsConfig) -> TokenLayout:
    """The token layout of a batch, as the model computes it."""
    senses = config.senses
    return TokenLayout.read(
        kinds_of(batch["input_ids"], senses),
        batch.get("attention_mask"),
        batch.get("position_ids"),
        [sense.seq_length or 0 for sense in senses.values()],
    )


def count(batch: dict[str, Any], config: WingsConfig) -> Tensor:
    """The counts of `NAMES` for one batch, int64, on its device; does not synchronise."""
    layout = layout_of(batch, config)
    is_real, is_image, is_text = (
        layout.kind != PADDING, layout.kind == IMAGE, layout.kind == TEXT,
    )  # fmt: skip
    pixels = batch.get("pixel_values")
    images = 0 if pixels is None else len(pixels)
    active = bool(config.learners) and (images > 0 or not config.text_guard)
    queries = layout.sees_sense(IMAGE) if config.text_guard else is_real
    starts = (layout.position == 0) & is_real
    # Every token of an image sees the whole image, also the tokens after it.
    rest = torch.where(is_image, layout.visible_at + config.image_seq_length - 1, 0)
    rest = torch.where(is_image, rest - layout.position, 0)
    visible = {
        "image": running_count(is_image, starts) + rest,
        "text": running_count(is_text, starts),
    }
    numbers = [
        torch.full_like(is_real, True, dtype=torch.long).sum(), is_real.sum(), is_image.sum(),
        is_real.new_tensor(images, dtype=torch.long), (batch["labels"][:, 1:] != -100).sum(),
        torch.where(is_real, layout.position + 1, 0).sum(),
    ]  # fmt: skip
    for name, sources in (("image", is_image), ("text", is_text)):
        on = active and name in config.learners
        sees = queries & (visible[name] > 0)
        numbers += [
            part.sum() * on for part in (sees, sources, torch.where(sees, visible[name], 0))
        ]  # fmt: skip
    return torch.stack(numbers)


def running_count(mask: Tensor, starts: Tensor) -> Tensor:
    """Number of True values up to and including each token of its sequence, `[B, T]`."""
    total = mask.long().cumsum(1)
    before = torch.where(starts, total - mask.long(), 0).cummax(1).values
    return total - before
