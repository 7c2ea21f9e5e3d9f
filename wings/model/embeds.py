"""Counts images and image tokens, and puts image features in place of the tokens' embeddings."""

from itertools import accumulate

import torch
from torch import Tensor

from wings.attention.token_layout import PADDING, TokenLayout
from wings.cache.learner_cache import PendingFeatures
from wings.errors import WingsError


def count_images(
    is_image: Tensor, images: int, image_seq_length: int, waiting: list[int], may_cut: bool
) -> list[int]:
    """Counts the images that begin in each row, after checking that tokens and images agree.

    Args:
        is_image: `[B, T]` bool.
        images: how many images there are for the whole batch.
        image_seq_length: tokens per image.
        waiting: per row, features left of an image that an earlier chunk began.
        may_cut: whether the last image of a row may go on in a later chunk.

    Raises:
        WingsError: the counts differ or an image is cut, with the row.
    """
    tokens = is_image.sum(1).tolist()
    fresh = [max(found - late, 0) for found, late in zip(tokens, waiting, strict=True)]
    begun = [-(-count // image_seq_length) for count in fresh]
    for row, count in enumerate(fresh):
        if count % image_seq_length and not may_cut:
            raise WingsError(
                f"Row {row} has {count} image tokens, but an image takes {image_seq_length}: "
                f"an image was cut, so shorten the text by whole turns instead."
            )
    if images:
        validate_contiguous(is_image, image_seq_length, waiting)
    if sum(begun) != images:
        # Images are used in reading order: the first row without enough of them, or the last.
        totals = list(accumulate(begun))
        row = next((row for row, used in enumerate(totals) if used > images), len(begun) - 1)
        raise WingsError(
            f"pixel_values has {images} images, but the image tokens of input_ids make "
            f"{sum(begun)} ({image_seq_length} tokens an image; see row {row}, which has room for "
            f"{begun[row]}): give one image per placeholder."
        )
    return begun


def validate_contiguous(is_image: Tensor, image_seq_length: int, waiting: list[int]) -> None:
    """Raises a `WingsError` if other tokens are between those of one image."""
    late = torch.tensor(waiting, device=is_image.device)[:, None]
    ordinal = is_image.long().cumsum(1) - late
    goes_on = is_image & (ordinal > 0) & ((ordinal - 1) % image_seq_length != 0)
    broken = (goes_on[:, 1:] & ~is_image[:, :-1]).any(1)
    if broken.any():
        row = int(broken.long().argmax())
        raise WingsError(
            f"Row {row} has other tokens between the {image_seq_length} tokens of one image: write "
            f"them one after another."
        )


def place(
    embeddings: Tensor,
    is_image: Tensor,
    features: Tensor | None,
    begun: list[int],
    late: PendingFeatures | None,
) -> tuple[Tensor, PendingFeatures | None]:
    """Replaces the embeddings of image tokens, `[B, T, D]`, by features; also returns the rest.

    `features [N, P, D]` are the images that begin here, `begun` of them in each row; `late` are
    features of images that an earlier chunk began.
    """
    if features is None and late is None:
        return embeddings, None
    width = embeddings.shape[-1]
    if late is None and features is not None:
        total = is_image.sum()
        if total == features.shape[0] * features.shape[1]:
            return embeddings.masked_scatter(is_image[..., None], features.to(embeddings)), None
    streams, start = [], 0
    for row, count in enumerate(begun):
        parts = []
        if late is not None:
            parts.append(late.of(row).to(embeddings))
        if features is not None:
            parts.append(features[start : start + count].reshape(-1, width).to(embeddings))
        start += count
        streams.append(torch.cat(parts))
    used = is_image.sum(1).tolist()
    now = torch.cat([stream[:count] for stream, count in zip(streams, used, strict=True)])
    left = [stream[count:] for stream, count in zip(streams, used, strict=True)]
    embeddings = embeddings.masked_scatter(is_image[..., None], now)
    if not any(len(rows) for rows in left):
        return embeddings, None
    waiting = torch.tensor([len(rows) for rows in left], device=embeddings.device)
    return embeddings, PendingFeatures(
        torch.nn.utils.rnn.pad_sequence(left, batch_first=True), waiting
    )


def layout_of_later(left: PendingFeatures, queries: TokenLayout, begun: list[int]) -> TokenLayout:
    """Returns the layout `[B, P]` of the features of images begun here that come in the next chunk.

    `PADDING` for rows that have none, or that go on with an image of an earlier chunk still.
    """
    # They follow the newest token of their row, which is of the same image.
    newest = (queries.kind != PADDING).long().cumsum(1).argmax(1, keepdim=True)
    nth = torch.arange(1, left.features.shape[1] + 1, device=newest.device)
    starts_here = torch.tensor(begun, device=newest.device) > 0
    last = queries.gather(newest.expand(-1, len(nth)))
    comes = (nth <= left.count[:, None]) & starts_here[:, None]
    return last.replace(position=last.position + nth).padded_where(~comes)
