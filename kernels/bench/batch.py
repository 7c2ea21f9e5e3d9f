"""What models read here: rows with one picture near their beginning and random text around it."""

import torch
from torch import Tensor

from wings.attention.token_layout import Layout

from .preset import Shape

# Text tokens before the picture.
BEFORE = 10
# Columns of the router whose sums routed attention gives: one for each learner.
COLUMNS = 2


def fits(shape: Shape, length: int) -> bool:
    """Whether a picture and some text around it fit into a row."""
    return length >= BEFORE + shape.image_tokens + 2


def tokens(shape: Shape, batch: int, length: int, device: torch.device) -> dict[str, Tensor]:
    """`input_ids` and `labels [B, T]` and `pixel_values [B, 3, H, W]`; nothing asked of pictures.

    The image token is the first id past the vocabulary.
    """
    ids = torch.randint(0, shape.vocabulary, (batch, length), device=device)
    picture = slice(BEFORE, BEFORE + shape.image_tokens)
    labels = ids.clone()
    ids[:, picture], labels[:, picture] = shape.vocabulary, -100
    pixels = torch.randn(batch, 3, shape.pixels, shape.pixels, device=device)
    return {"input_ids": ids, "labels": labels, "pixel_values": pixels}


def as_text(shape: Shape, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same for a language model alone: some word stands for each image token."""
    ids = batch["input_ids"].clamp(max=shape.vocabulary - 1)
    return {"input_ids": ids, "labels": batch["labels"]}


def layout(shape: Shape, batch: int, length: int, device: torch.device) -> Layout:
    """Where every token of such rows stands."""
    is_image = torch.zeros(batch, length, dtype=torch.bool, device=device)
    is_image[:, BEFORE : BEFORE + shape.image_tokens] = True
    return Layout.read(is_image, None, None, shape.image_tokens)


def causal_pairs(length: int) -> int:
    """T (T + 1) / 2."""
    return length * (length + 1) // 2


def sources(shape: Shape, length: int) -> list[tuple[int, int]]:
    """Keys of the image and the text learner in such a row, and the pairs its tokens make."""
    image = shape.image_tokens
    after = length - BEFORE - image
    text_pairs = causal_pairs(BEFORE) + (image + after) * BEFORE + causal_pairs(after)
    return [(image, (length - BEFORE) * image), (length - image, text_pairs)]
