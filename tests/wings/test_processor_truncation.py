"""Conversations that are too long, and long ones that are not."""

import warnings

import pytest
import torch
from processors import assistant, learned, picture, user

from wings.errors import WingsError


def test_truncation_drops_whole_exchanges(processor):
    messages = [{"role": "system", "content": "be brief"}]
    for answer in ("red", "blue", "green"):
        messages += [user(picture(answer), "what is it?"), assistant(answer)]
    whole = processor.encode(messages)
    length = len(whole["input_ids"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = processor.encode(messages, max_length=length)
    assert torch.equal(kept["input_ids"], whole["input_ids"])
    with pytest.warns(UserWarning, match="The 1 oldest of 3 exchanges") as caught:
        shorter = processor.encode(messages, max_length=length - 1)
    assert len(caught) == 1
    want = processor.encode([messages[0], *messages[3:]])
    assert all(torch.equal(shorter[name], want[name]) for name in want)
    assert shorter["pixel_values"].shape[0] == 2
    newest = processor.encode([messages[0], *messages[5:]])
    with pytest.warns(UserWarning, match="The 2 oldest"):
        got = processor.encode(messages, max_length=len(newest["input_ids"]))
    assert torch.equal(got["input_ids"], newest["input_ids"])
    with pytest.raises(WingsError, match=r"newest exchange takes .* 1 images"):
        processor.encode(messages, max_length=len(newest["input_ids"]) - 1)


def test_a_long_text_is_one_row(processor):
    text = "a red circle 中🙂 " * 5000
    row = processor.encode([user(text), assistant(text)])
    assert learned(processor, row) == [f"{text}<|im_end|>"]
