"""Retained: the answers of a sample that are to stay the language model's own, and its question."""

from typing import Any

import torch

from wings.errors import WingsError


def with_retained(sample: dict[str, Any], alone: dict[str, Any]) -> dict[str, Any]:
    """A sample that says which of its learned tokens are retained.

    Args:
        sample: `input_ids`, `labels` [T] and whatever else.
        alone: `input_ids`, `labels` [S] of the conversation that the language model is asked about:
            the text that the sample ends with, as a conversation of its own, or the sample itself.

    Returns:
        the sample with `retained` [T] bool and `alone`. The true places of the one and the labels
        of the other (the first token is none) are as many, and the same tokens in the same order.

    Raises:
        WingsError: the answers in `alone` are not those that the sample ends with.
    """
    ids, labels = alone["input_ids"], alone["labels"].clone()
    labels[0] = -100
    answers = labels[labels != -100]
    places = (sample["labels"][1:] != -100).nonzero().squeeze(1) + 1
    places = places[max(0, len(places) - len(answers)) :]
    if not torch.equal(sample["labels"][places], answers):
        raise WingsError(
            "kl_to_base: the answer of its text turn has other tokens after the conversation than"
            " on its own, so the language model cannot be run on it; give the processor a chat"
            " template that writes an answer alike in both places"
        )
    retained = torch.zeros_like(sample["labels"], dtype=torch.bool)
    retained[places] = True
    return {**sample, "retained": retained, "alone": {"input_ids": ids, "labels": labels}}
