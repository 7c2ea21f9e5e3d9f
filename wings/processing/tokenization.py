"""Turns rendered text into token ids and labels, expands images and pads rows."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from transformers import AddedToken, PreTrainedTokenizerBase

from wings.errors import WingsError

from .conversation import IMAGE_TOKEN, TYPED, Span

IGNORED = -100
_EITHER = re.compile(f"{IMAGE_TOKEN}|{TYPED}")


def add_image_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns the id of `<image>`; adds it as a special token where the tokenizer has none."""
    if IMAGE_TOKEN not in tokenizer.get_added_vocab():
        token = AddedToken(IMAGE_TOKEN, special=True, normalized=False)
        tokenizer.add_tokens([token], special_tokens=True)
    return tokenizer.get_vocab()[IMAGE_TOKEN]


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    spans: Sequence[Span] | None,
    image_token_id: int,
    image_seq_length: int,
    add_special_tokens: bool = False,
) -> tuple[list[int], list[int]]:
    """Returns ids and labels of a text.

    Args:
        tokenizer: has `<image>` as a token of its own.
        text: `<image>` stands for an image, `TYPED` for the same letters typed by someone.
        spans: letters [start, end) to learn; None for no labels.
        image_token_id: written `image_seq_length` times for an image.
        image_seq_length: features per image.
        add_special_tokens: the tokenizer's own, around the text.

    Returns:
        ids, and labels of the same length (-100 where nothing is learned, and for images).

    Raises:
        WingsError: a tokenizer that splits `<image>`, or that reads the prompt before a span, or
            the span itself, otherwise than as part of the whole.
    """
    is_image = [found.group() == IMAGE_TOKEN for found in _EITHER.finditer(text)]
    text = text.replace(TYPED, IMAGE_TOKEN)
    ids = _ids(tokenizer, [text], add_special_tokens)[0]
    if ids.count(image_token_id) != len(is_image):
        raise WingsError(
            f"The tokenizer reads {ids.count(image_token_id)} of {len(is_image)} {IMAGE_TOKEN} as "
            "one token; add it as a special token."
        )
    learned = [False] * len(ids)
    cuts = [letter for span in spans or () for letter in span]
    bounds = _token_bounds(tokenizer, text, ids, cuts)
    for start, end in zip(bounds[::2], bounds[1::2], strict=True):
        learned[start:end] = [True] * (end - start)

    kinds = iter(is_image)
    out, labels = [], []
    for token, learn in zip(ids, learned, strict=True):
        if token != image_token_id:
            new = [token]
        elif next(kinds):
            new, learn = [token] * image_seq_length, False
        else:
            # Typed letters: tokenised in two parts, so that they do not become the image token.
            new = [
                part
                for piece in _ids(tokenizer, [IMAGE_TOKEN[:1], IMAGE_TOKEN[1:]])
                for part in piece
            ]
        out += new
        labels += new if learn else [IGNORED] * len(new)
    return out, labels


def pad_rows(rows: Sequence[Mapping[str, Tensor]], pad_id: int, padding_side: str) -> dict:
    """Pads rows `input_ids` [T], `labels` [T], `pixel_values` [n, 3, H, W] to one batch.

    Returns:
        `input_ids`, `attention_mask` [B, T], `labels` [B, T] where the rows have them,
        `pixel_values` [N, 3, H, W] of all rows in order where any row has them.

    Raises:
        WingsError: no rows, or a padding side that is neither "left" nor "right".
    """
    if padding_side not in ("left", "right"):
        raise WingsError(f"'padding_side' is {padding_side!r}; it must be 'left' or 'right'.")
    if not rows:
        raise WingsError("A batch needs at least one row.")
    lengths = [len(row["input_ids"]) for row in rows]
    longest = max(lengths)

    def padded(name: str, fill: int) -> Tensor:
        batch = torch.full((len(rows), longest), fill, dtype=torch.long)
        for into, row, length in zip(batch, rows, lengths, strict=True):
            into[slice(longest - length, None) if padding_side == "left" else slice(length)] = row[
                name
            ]
        return batch

    rows = [{**row, "attention_mask": torch.ones_like(row["input_ids"])} for row in rows]
    batch = {
        "input_ids": padded("input_ids", pad_id),
        "attention_mask": padded("attention_mask", 0),
    }
    if "labels" in rows[0]:
        batch["labels"] = padded("labels", IGNORED)
    pixels = [row["pixel_values"] for row in rows if "pixel_values" in row]
    if pixels:
        batch["pixel_values"] = torch.cat(pixels)
    return batch


def _ids(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], add_special_tokens: bool = False
) -> list[list[int]]:
    # Not verbose: a row longer than the tokenizer's model_max_length is the caller's to judge.
    encoded = tokenizer(
        texts,
        add_special_tokens=add_special_tokens,
        return_attention_mask=False,
        verbose=False,
    )
    return [list(ids) for ids in encoded["input_ids"]]


def _token_bounds(
    tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int], cuts: list[int]
) -> list[int]:
    """Counts the `ids` before each cut of `text`; raises where a cut is within a token."""
    if not cuts:
        return []
    pieces = [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]
    parts = _ids(tokenizer, pieces)
    if [token for part in parts for token in part] == ids:
        bounds, count = [], 0
        for part in parts[:-1]:
            count += len(part)
            bounds.append(count)
        return bounds
    # Some tokenizers put a space before every text, so a piece has other ids than within the text.
    # The text before a cut is the prompt that a model would continue, so compare that.
    prefixes = _ids(tokenizer, [text[:cut] for cut in cuts])
    for cut, prefix in zip(cuts, prefixes, strict=True):
        if ids[: len(prefix)] != prefix:
            raise WingsError(
                f"The tokenizer joins {text[max(0, cut - 12) : cut]!r} and "
                f"{text[cut : cut + 12]!r} into one token, so the border of the assistant's turn "
                "is within a token; put a special token or a line break between them in the "
                "chat template."
            )
    return [len(prefix) for prefix in prefixes]
