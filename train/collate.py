"""Collate: encoded conversations become one batch of the contract between data and model."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence


class Collator:
    """Pads samples on the right to the longest.

    Given samples of `input_ids` [T], `labels` [T] and, where there are images, `pixel_values` [k,
    3, H, W], it returns `input_ids`, `attention_mask`, `labels` [B, T] int64 and `pixel_values` [N,
    3, H, W], all images of the batch in reading order; the key is absent when no sample has an
    image. `skipped` lists of samples are joined, and absent when empty.
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
        return batch
