"""Without wings: passes that are the language model's own, and a model that is as it was after."""

import copy

import pytest
import torch
from families import MAIN, Layouts, batch_of, build
from test_guarantees import logits, own_logits

TEXT = [["text"] * 9, ["text"] * 5]


@pytest.mark.parametrize("family", [*MAIN, "gpt2"])
def test_a_pass_is_the_decoders_own_to_the_last_bit(family):
    model = build(family)
    for rows in (TEXT, Layouts(5).rows(2)):
        batch, _ = batch_of(model, rows)
        real = batch["attention_mask"].bool()
        with model.without_wings():
            ours = logits(model, batch)[real]
        assert torch.equal(ours, own_logits(model, batch)[real])
    # Behind a picture learners say something.
    assert not torch.equal(logits(model, batch)[real], ours)


def test_it_trains_nothing_of_the_wings_and_ends_with_its_block():
    model = build(MAIN[0]).train()
    batch, _ = batch_of(model, TEXT)
    expected = copy.deepcopy(model).eval().extract_language_model()
    with model.without_wings(), model.without_wings():
        out = model(**batch, labels=batch["input_ids"])
    with torch.no_grad():
        own = expected(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    real = batch["attention_mask"].bool()
    assert torch.equal(out.logits[real], own[real])
    out.loss.backward()
    wings = [p for n, p in model.named_parameters() if ".wings." in n]
    # Zeros, not None: processes of a run that is spread have the same gradients.
    assert wings and all(p.grad is not None and not p.grad.any() for p in wings)
    with pytest.raises(KeyError), model.without_wings():
        raise KeyError
    batch, _ = batch_of(model, [["text", "image", "text"]])
    assert not torch.equal(logits(model, batch), logits_without(model, batch))


def logits_without(model, batch):
    with model.without_wings():
        return logits(model, batch)
