"""Batches: pads or packs encoded conversations, and marks the tokens that a loss needs."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from wings.errors import WingsError
from wings.model.head_of_tokens import before_labels
from wings.processing.tokenization import stacked_items


class Collator:
    """Pads samples on the right to the longest.

    Input: samples with `input_ids` [T], `labels` [T] and, with images, `pixel_values` [k, 3, H, W],
    with items of other senses likewise. Output: `input_ids`, `attention_mask`, `labels` [B, T]
    int64 and, with images, `pixel_values` [N, 3, H, W], all images of the batch in reading order,
    and so on. `skipped` lists are joined; absent if empty. With the keys of `with_kl_mask`:
    `kl_mask` [B, T], and `base_inputs` of the samples that have it, collated. Masked tokens of both
    come in the same order.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        ids = [sample["input_ids"] for sample in samples]
        batch: dict[str, Any] = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            # From lengths, because the pad token may also be a token of the conversation.
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
            "labels": pad_sequence(
                [sample["labels"] for sample in samples], batch_first=True, padding_value=-100
            ),
        }
        batch |= stacked_items(samples)
        skipped = [entry for sample in samples for entry in sample.get("skipped", ())]
        if skipped:
            batch["skipped"] = skipped
        if "position_ids" in samples[0]:
            positions = [sample["position_ids"] for sample in samples]
            batch["position_ids"] = pad_sequence(positions, batch_first=True)
        base_inputs = [sample["base_inputs"] for sample in samples if "base_inputs" in sample]
        if base_inputs:
            kl_mask = [kl_mask_of(sample) for sample in samples]
            batch["kl_mask"] = pad_sequence(kl_mask, batch_first=True)
            batch["base_inputs"] = Collator.__call__(self, base_inputs)
        return batch


class Packer(Collator):
    """Concatenates samples in rows of at most `max_length` tokens, few rows of similar length.

    Returns the keys of a `Collator` for R rows, and `position_ids` [R, T], which restart at 0 with
    every sample, so that a token sees only its own sample. The first token of a sample is no label,
    because it follows another sample. Loss and gradient equal those of the padded batch.
    """

    def __init__(self, pad_token_id: int, max_length: int) -> None:
        super().__init__(pad_token_id)
        self.max_length = max_length

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        rows = fill_rows([len(sample["input_ids"]) for sample in samples], self.max_length)
        return super().__call__([join([samples[n] for n in row]) for row in rows])


def fill_rows(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Distribute samples evenly over few rows of at most `room` tokens.

    The longest sample first, each into the shortest row; one row more if that does not fit.

    Returns:
        the sample numbers of each row, in ascending order.
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
    """Concatenate samples to one, without labels on first tokens; `base_inputs` too.

    `position_ids` restart at 0 with each sample.
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
    base_inputs = [sample["base_inputs"] for sample in samples if "base_inputs" in sample]
    if base_inputs:
        joined["kl_mask"] = torch.cat([kl_mask_of(sample) for sample in samples])
        joined["base_inputs"] = join(base_inputs)
    return {**joined, **stacked_items(samples)}


def kl_mask_of(sample: dict[str, Any]) -> Tensor:
    """The sample's `kl_mask`, `[T]` bool; all False if it has none."""
    return sample.get("kl_mask", torch.zeros_like(sample["input_ids"], dtype=torch.bool))


def with_kl_mask(sample: dict[str, Any], base_inputs: dict[str, Any]) -> dict[str, Any]:
    """Mark the tokens of a sample on which the KL to the base LLM is taken.

    Args:
        sample: `input_ids`, `labels` [T] and other keys.
        base_inputs: `input_ids`, `labels` [S] of the conversation that the base LLM reads: the text
            at the end of the sample as a conversation of its own, or the sample itself.

    Returns:
        the sample with `kl_mask` [T] bool and `base_inputs`. The true places of the mask and the
        labels of `base_inputs` (after the first token) are the same tokens in the same order.

    Raises:
        WingsError: the sample does not end with the answers in `base_inputs`.
    """
    ids, labels = base_inputs["input_ids"], base_inputs["labels"].clone()
    labels[0] = -100
    answers = labels[labels != -100]
    places = (sample["labels"][1:] != -100).nonzero().squeeze(1) + 1
    places = places[max(0, len(places) - len(answers)) :]
    if not torch.equal(sample["labels"][places], answers):
        raise WingsError(
            "kl_to_base: the answer of its text turn has other tokens after the conversation than"
            " on its own, so the base LLM cannot be run on it; use a chat template that writes an"
            " answer alike in both places"
        )
    mask = torch.zeros_like(sample["labels"], dtype=torch.bool)
    mask[places] = True
    return {**sample, "kl_mask": mask, "base_inputs": {"input_ids": ids, "labels": labels}}


def loss_tokens(labels: Tensor, kl_mask: Tensor | None = None) -> dict[str, Tensor]:
    """Keywords of the model's forward that restrict logits to the tokens before a label.

    With a large vocabulary the head costs as much as many blocks, and answers are short.

    Args:
        labels: `[B, T]`, -100 where nothing is trained.
        kl_mask: `[B, T]` bool, tokens whose predictions are wanted too; None for none.

    Returns:
        `logits_to_keep` `[B, T]` bool, N tokens, and `shift_labels` `[N]` int64 in reading order.
    """
    if kl_mask is None:
        wanted, following = before_labels(labels)
        return {"logits_to_keep": wanted, "shift_labels": following}
    following = functional.pad(labels[:, 1:], (0, 1), value=-100)
    wanted = (following != -100) | before_mask(kl_mask)
    return {"logits_to_keep": wanted, "shift_labels": following[wanted]}


def before_mask(mask: Tensor) -> Tensor:
    """`[B, T]` bool: the tokens that predict those of a mask `[B, T]`."""
    return functional.pad(mask[:, 1:], (0, 1))
