"""Likelihood of answers: equal to one answer at a time, and to the definition; captions ranked."""

import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoTokenizer

from wings import WingsForCausalLM, WingsProcessor
from wings.errors import WingsError
from wings.eval.generate import answer_items, encode
from wings.eval.items import Item
from wings.eval.loglikelihood import (
    Likelihood,
    choice_likelihoods,
    rank,
    reciprocal_ranks,
    top1_scores,
)


def captions(folder):
    items = []
    for n, colour in enumerate(["red", "green", "blue"]):
        Image.new("RGB", (28 + n, 28), colour).save(folder / f"{n}.png")
        parts = [
            {"type": "image", "image": str(folder / f"{n}.png")},
            {"type": "text", "text": "Describe it." * (n + 1)},
        ]
        choices = ("a red square", "green", "the deep blue sea, seen from far above")
        items.append(Item("captions", ({"role": "user", "content": parts},), choices[n],
                          choices=choices))  # fmt: skip
    return items


def alone(model, processor, item, choice):
    tokenizer = getattr(processor, "tokenizer", processor)
    batch = encode(processor, [list(item.messages)])
    ids = torch.tensor([tokenizer.encode(choice, add_special_tokens=False)])
    batch["input_ids"] = torch.cat([batch["input_ids"], ids], 1)
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    with torch.no_grad():
        logits = model(**batch).logits[0].double().log_softmax(-1)
    begin = batch["input_ids"].shape[1] - ids.shape[1]
    return sum(logits[begin + k - 1, token].item() for k, token in enumerate(ids[0].tolist()))


def test_a_batch_of_captions_is_as_likely_as_each_alone(unguarded, tmp_path):
    model = WingsForCausalLM.from_pretrained(unguarded).eval()
    processor = WingsProcessor.from_pretrained(unguarded)
    items, seen = captions(tmp_path), []
    found = choice_likelihoods(model, processor, items, batch_size=4, on_batch=seen.append)
    assert seen == [4, 4, 1]
    for item, of in zip(items, found, strict=True):
        for choice, one in zip(item.choices, of, strict=True):
            assert one.tokens == len(choice)
            assert one.total == pytest.approx(alone(model, processor, item, choice), abs=2e-3)
    # The picture counts: another one, another likelihood.
    swapped = [Item("c", items[1].messages, "", choices=items[0].choices)]
    swapped[0].messages[0]["content"][1]["text"] = "Describe it."
    assert choice_likelihoods(model, processor, swapped)[0] != found[0]


def test_a_plain_llm_is_measured_the_same_way(llm):
    model = AutoModelForCausalLM.from_pretrained(llm).eval()
    tokenizer = AutoTokenizer.from_pretrained(llm)
    item = Item("t", ({"role": "user", "content": "Two and two?"},), "4", choices=("4", "22"))
    ((four, twenty_two),) = choice_likelihoods(model, tokenizer, [item])
    assert four.total == pytest.approx(alone(model, tokenizer, item, "4"), abs=2e-3)
    assert twenty_two.total == pytest.approx(alone(model, tokenizer, item, "22"), abs=2e-3)


def test_what_greedy_decoding_says_is_greedy(llm):
    model = AutoModelForCausalLM.from_pretrained(llm).eval()
    tokenizer = AutoTokenizer.from_pretrained(llm)
    item = Item("t", ({"role": "user", "content": "Two and two?"},), "")
    said = answer_items(model, tokenizer, [item], max_new_tokens=3)[0]
    other = ("x" if said[0] != "x" else "y") + said[1:]
    asked = Item("t", item.messages, "", choices=(said, said[:1], other))
    (found,) = choice_likelihoods(model, tokenizer, [asked])
    assert [one.greedy for one in found] == [True, True, False]


def test_ranks():
    item = Item("c", (), "b", choices=("a", "b", "c"))
    found = [Likelihood(-9, 9), Likelihood(-4, 2), Likelihood(-3, 1)]
    assert rank(item, found) == 2
    assert top1_scores([item], [found]) == [0] and reciprocal_ranks([item], [found]) == [0.5]
    # A model that finds all equal has ranked nothing.
    assert rank(item, [Likelihood(-1, 1)] * 3) == 3


def test_nothing_to_rank_is_refused(llm):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(llm), AutoTokenizer.from_pretrained(llm)
    ask = ({"role": "user", "content": "?"},)
    with pytest.raises(WingsError, match="kind 'k' has nothing to choose from"):
        choice_likelihoods(model, tokenizer, [Item("k", ask, "a")])
    with pytest.raises(WingsError, match="'' has no tokens"):
        choice_likelihoods(model, tokenizer, [Item("k", ask, "a", choices=("a", ""))])
    with pytest.raises(WingsError, match="none of the choices"):
        rank(Item("k", ask, "z", choices=("a",)), [Likelihood(-1, 1)])
