"""Checks of what `forward` is called with, before anything is computed."""

import torch
from torch import Tensor

from wings.errors import WingsError


def validate_inputs(
    input_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    labels: Tensor | None,
    pixel_values: Tensor | None,
) -> tuple[int, int]:
    """Returns the number of rows B and of new tokens T; shapes only, no value is looked at.

    Raises:
        WingsError: neither or both of `input_ids` and `inputs_embeds`, images with the latter, or
            a shape or dtype that does not fit.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise WingsError("Give either input_ids or inputs_embeds, and not both.")
    if input_ids is not None:
        tokens, name, form = input_ids, "input_ids", "[B, T] of whole numbers"
        fits = input_ids.ndim == 2 and input_ids.dtype in (torch.int64, torch.int32)
    else:
        assert inputs_embeds is not None
        tokens, name, form = inputs_embeds, "inputs_embeds", "[B, T, D] of floating numbers"
        fits = inputs_embeds.ndim == 3 and inputs_embeds.is_floating_point()
    if not fits or 0 in tokens.shape:
        raise WingsError(
            f"'{name}' is {list(tokens.shape)} of {tokens.dtype}, but must be {form}, with at "
            f"least one row and one token."
        )
    if inputs_embeds is not None and pixel_values is not None and len(pixel_values):
        raise WingsError(
            "inputs_embeds do not say where the images of pixel_values are: give input_ids with "
            "image tokens instead, or leave pixel_values out."
        )
    rows, length = tokens.shape[:2]
    if attention_mask is not None:
        shape = attention_mask.shape
        if len(shape) != 2 or shape[0] != rows or shape[1] < length:
            raise WingsError(
                f"'attention_mask' is {list(shape)}, but must be [{rows}, S] of 0 and 1, with S "
                f"the tokens in the cache and the {length} new ones."
            )
    if position_ids is not None:
        validate_shape("position_ids", position_ids, (rows, length), one_row=True)
    if labels is not None:
        validate_shape("labels", labels, (rows, length))
    return rows, length


def validate_shape(
    name: str, tensor: Tensor, wanted: tuple[int, int], one_row: bool = False
) -> None:
    """Raises a `WingsError` for another shape than `wanted`, or than one row of it."""
    if tuple(tensor.shape) != wanted and not (one_row and tuple(tensor.shape) == (1, wanted[1])):
        raise WingsError(
            f"'{name}' is {list(tensor.shape)}, but must be {list(wanted)}, as the new tokens are."
        )


def labels_of_text(labels: Tensor, image_token_id: int) -> Tensor:
    """Returns labels `[B, T]` with -100 at image tokens, which no output predicts."""
    return labels.masked_fill(labels == image_token_id, -100)


def unknown_token(input_ids: Tensor | None, image_token_id: int, vocabulary: int) -> str | None:
    """Describes the first id that is not in the table of embeddings; None if there is none."""
    if input_ids is None:
        return None
    foreign = (input_ids < 0) | (input_ids >= vocabulary)
    rows, places = (foreign & (input_ids != image_token_id)).nonzero(as_tuple=True)
    if not len(rows):
        return None
    row, place = int(rows[0]), int(places[0])
    return (
        f"Token {place} of row {row} has the id {int(input_ids[row, place])}, but the language "
        f"model knows ids from 0 to {vocabulary - 1}: use the processor that was saved with it."
    )
