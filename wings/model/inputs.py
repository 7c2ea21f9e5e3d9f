"""Checks of what `forward` is called with, before anything is computed."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from wings.errors import WingsError
from wings.sense import VALUES, Sense


def validate_inputs(
    input_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    labels: Tensor | None,
    values: Mapping[str, Tensor | None],
) -> tuple[int, int]:
    """Returns the number of rows B and of new tokens T; shapes only, no value is looked at.

    Raises:
        WingsError: neither or both of `input_ids` and `inputs_embeds`, images or other items with
            the latter, or a shape or dtype that does not fit.
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
    given = [name for name, items in values.items() if items is not None and len(items)]
    if inputs_embeds is not None and given:
        what = "images" if given[0] == "pixel_values" else "items"
        raise WingsError(
            f"inputs_embeds do not say where the {what} of {given[0]} are: give input_ids with "
            f"their tokens instead, or leave {given[0]} out."
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


def labels_of_text(labels: Tensor, token_ids: Iterable[int]) -> Tensor:
    """Returns labels `[B, T]` with -100 at the tokens of items, which no output predicts."""
    for token_id in token_ids:
        labels = labels.masked_fill(labels == token_id, -100)
    return labels


def kinds_of(input_ids: Tensor, senses: Mapping[str, Sense]) -> Tensor:
    """The kinds of tokens `[B, T]` of a `TokenLayout`, by the ids of the senses' placeholders."""
    kinds = torch.zeros_like(input_ids, dtype=torch.long)
    for sense in senses.values():
        kinds = kinds.masked_fill(input_ids == sense.token_id, sense.kind)
    return kinds


def read_items(
    senses: Mapping[str, Sense],
    input_ids: Tensor | None,
    pixel_values: Tensor | None,
    others: dict[str, Any],
) -> tuple[dict[str, Tensor], Tensor]:
    """The items of each sense that has any, `[N, *item shape]`, by its name; and `kinds_of`.

    Args:
        senses: of the model.
        input_ids: `[B, T]`; None where embeddings are given, which have no kinds here.
        pixel_values: of images.
        others: further keywords; those that hold items are taken out.

    Raises:
        WingsError: items of a sense that the model does not have.
    """
    given = {"pixel_values": pixel_values}
    given |= {name: others.pop(name) for name in [*others] if VALUES.fullmatch(name)}
    known = {sense.values_name: name for name, sense in senses.items()}
    found = {}
    for name, items in given.items():
        if items is None:
            continue
        if name not in known:
            raise WingsError(
                f"'{name}' was given, but the model has no such sense; it takes "
                f"{', '.join(known)}: leave it out, or use a model that has it."
            )
        if len(items):
            found[known[name]] = items
    return found, torch.empty(0) if input_ids is None else kinds_of(input_ids, senses)


def unknown_token(
    input_ids: Tensor | None, token_ids: Iterable[int], vocabulary: int
) -> str | None:
    """Describes the first id that is not in the table of embeddings; None if there is none."""
    if input_ids is None:
        return None
    foreign = (input_ids < 0) | (input_ids >= vocabulary)
    for token_id in token_ids:
        foreign &= input_ids != token_id
    rows, places = foreign.nonzero(as_tuple=True)
    if not len(rows):
        return None
    row, place = int(rows[0]), int(places[0])
    return (
        f"Token {place} of row {row} has the id {int(input_ids[row, place])}, but the language "
        f"model knows ids from 0 to {vocabulary - 1}: use the processor that was saved with it."
    )
