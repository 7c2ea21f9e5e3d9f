"""Logits of chosen tokens only, as a training step wants them."""

import pytest
import torch
from families import FAMILIES, batch_of, build

from wings.train.data.collator import loss_tokens

ROWS = [["text", "image", "text", "text"], ["text"] * 3, ["image", "text"]]


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_loss_are_those_of_all_tokens(family):
    model = build(family).eval()
    batch, _ = batch_of(model, ROWS)
    labels = batch["input_ids"].masked_fill(batch["input_ids"] >= 90, -100)
    labels[1, :2] = -100
    labels = labels.masked_fill(batch["attention_mask"] == 0, -100)
    kept = loss_tokens(labels)
    mask = kept["logits_to_keep"]
    assert torch.equal(mask[:, :-1], labels[:, 1:] != -100) and not mask[:, -1].any()
    assert torch.equal(kept["shift_labels"], labels[:, 1:][mask[:, :-1]])
    found = model(**batch, labels=labels, **kept)
    whole = model(**batch, labels=labels)
    torch.testing.assert_close(found.logits, whole.logits[mask], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.loss, whole.loss, atol=1e-5, rtol=1e-5)


def test_a_batch_without_a_label_has_no_logits_and_a_loss_of_zero():
    model = build("llama").train()
    batch, _ = batch_of(model, ROWS)
    labels = torch.full_like(batch["input_ids"], -100)
    out = model(**batch, labels=labels, **loss_tokens(labels), num_items_in_batch=1)
    assert out.logits.shape[0] == 0 and out.loss == 0
    out.loss.backward()


def test_tokens_of_a_kl_term_have_logits_too():
    labels = torch.tensor([[5, 6, -100, -100], [-100, 7, -100, 8]])
    mask = torch.tensor([[False, False, True, False], [True, True, False, False]])
    kept = loss_tokens(labels, mask)
    assert kept["logits_to_keep"].nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 2]]
    assert kept["shift_labels"].tolist() == [6, -100, 7, 8]


def test_columns_of_transformers_still_count():
    model = build("llama").eval()
    batch, _ = batch_of(model, ROWS)
    whole = model(**batch).logits
    assert torch.equal(model(**batch, logits_to_keep=2).logits, whole[:, -2:])
    columns = torch.tensor([0, 3])
    torch.testing.assert_close(model(**batch, logits_to_keep=columns).logits, whole[:, columns])
