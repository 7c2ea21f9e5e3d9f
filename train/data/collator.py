"""Collate: encoded conversations become one batch of the contract between data and model."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence


class Collator:
    """Pads samples on the right to the longest.

    Given samples of `input_ids` [T], `labels` [T] and, where there are images, `pixel_values` [k,
    3, H, W], it returns `input_ids`, `attention_mask`, `labels` [B, T] int64 and `pixel_values` [N,
    3, H, W], all images of the batch in reading order; the key is absent when no sample has an
    image. `skipped` lists of samples are joined, and absent when empty. Where samples have what
    `with_retained` adds, `retained` [B, T] and, collated, `alone` of those that have it: row by row
    and token by token their retained tokens are in one order.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        ids = [sample["input_ids"] for sample in samples]
        batch: dict[str, Any] = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            # From the lengths, not from the ids: the pad token may be a real token of the
            # conversation too.
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
            "labels": pad_sequence(
                [sample["labels"] for sample in samples], batch_first=True, padding_value=-100
            ),
        }
        pixels = [sample["pixel_values"] for sample in samples if "pixel_values" in sample]
        if pixels:
            batch["pixel_values"] = torch.cat(pixels)
        skipped = [entry for sample in samples for entry in sample.get("skipped", ())]
        if skipped:
            batch["skipped"] = skipped
        if "position_ids" in samples[0]:
            positions = [sample["position_ids"] for sample in samples]
            batch["position_ids"] = pad_sequence(positions, batch_first=True)
        alone = [sample["alone"] for sample in samples if "alone" in sample]
        if alone:
            retained = [retained_of(sample) for sample in samples]
            batch["retained"] = pad_sequence(retained, batch_first=True)
            batch["alone"] = Collator.__call__(self, alone)
        return batch


class Packer(Collator):
    """Lays samples end to end in rows of at most `max_length` tokens, as few and even as can be.

    Beside what a `Collator` returns, for R rows: `position_ids` [R, T], which begin at 0 with every
    sample (a token sees its own sample alone). The first token of a sample is no label, as what
    stands before it is another's. The same samples as in a padded batch: loss and gradient are the
    same.
    """

    def __init__(self, pad_token_id: int, max_length: int) -> None:
        super().__init__(pad_token_id)
        self.max_length = max_length

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        rows = fill_rows([len(sample["input_ids"]) for sample in samples], self.max_length)
        return super().__call__([join([samples[n] for n in row]) for row in rows])


def fill_rows(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Spread samples of some lengths over few rows of at most `room` tokens, evenly.

    The longest first, each into the emptiest row; with one row more where that does not fit.

    Returns:
        The samples of each row by their numbers, in their order.
    """
    room = max(room, *lengths)
    for count in range(math.ceil(sum(lengths) / room), len(lengths) + 1):
        rows: list[list[int]] = [[] for _ in range(count)]
        filled = [0] * count
        for n in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
            row = filled.index(min(filled))
            rows[row].append(n)
            filled[row] += lengths[n]
        if max(filled) <= room:
            break
    return sorted(sorted(row) for row in rows if row)


def join(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several samples end to end as one; labels of the first tokens are taken away.

    `position_ids` begin at 0 with each. What is asked of the language model alone is laid end to
    end too.
    """
    labels = [sample["labels"].clone() for sample in samples]
    for row in labels:
        row[0] = -100
    joined: dict[str, Any] = {
        "input_ids": torch.cat([sample["input_ids"] for sample in samples]),
        "labels": torch.cat(labels),
        "position_ids": torch.cat([torch.arange(len(sample["input_ids"])) for sample in samples]),
        "skipped": [entry for sample in samples for entry in sample.get("skipped", ())],
    }
    alone = [sample["alone"] for sample in samples if "alone" in sample]
    if alone:
        joined["retained"] = torch.cat([retained_of(sample) for sample in samples])
        joined["alone"] = join(alone)
    pixels = [sample["pixel_values"] for sample in samples if "pixel_values" in sample]
    return {**joined, "pixel_values": torch.cat(pixels)} if pixels else joined


def retained_of(sample: dict[str, Any]) -> torch.Tensor:
    """Which tokens are retained, `[T]` bool; none where the sample does not say so."""
    nothing = torch.zeros_like(sample["input_ids"], dtype=torch.bool)
    return sample.get("retained", nothing)
