"""Without wings: passes that are the language model's own, and a model that is as it was after."""

import contextlib
import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from families import MAIN, Layouts, batch_of, build, logits, own_logits

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
    # After an image learners act.
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


@torch.no_grad()
def test_a_thread_without_wings_leaves_the_others_theirs():
    """Passes of several threads at once, some without wings: each is as if it were alone."""
    model = build(MAIN[0])
    batch, _ = batch_of(model, [["text", "image", "text"], ["image", "text", "text"]])
    expected = {False: logits(model, batch), True: logits_without(model, batch)}
    assert not torch.equal(expected[False], expected[True])
    barrier = threading.Barrier(4)

    def passes(without):
        found = []
        with model.without_wings() if without else contextlib.nullcontext():
            for _ in range(6):
                # All threads are inside or outside of their block at the same time.
                barrier.wait()
                found.append(logits(model, batch))
        return found

    sides = [True, False, True, False]
    with ThreadPoolExecutor(4) as pool:
        for without, found in zip(sides, pool.map(passes, sides), strict=True):
            assert all(torch.equal(one, expected[without]) for one in found)


@torch.no_grad()
def test_no_pass_leaves_state_on_a_module():
    """Guarantee 13: attributes of every module are the same objects before and after a pass."""
    model = build(MAIN[0])
    batch, _ = batch_of(model, [["text", "image", "text"], ["text"] * 3])

    def attributes():
        return {
            (name, key): id(value)
            for name, module in model.named_modules()
            for key, value in vars(module).items()
        }

    logits(model, batch)
    before = attributes()
    cache = model(**batch, use_cache=True, output_router_weights=True).cache
    model(input_ids=torch.tensor([[5], [6]]), cache=cache)
    with model.without_wings():
        logits(model, batch)
    assert attributes() == before


def test_a_compiled_model_follows_the_context():
    model = build(MAIN[0])
    batch, _ = batch_of(model, [["text", "image", "text"]])
    expected = logits(model, batch), logits_without(model, batch)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    try:
        for _ in range(2):
            with torch.no_grad():
                torch.testing.assert_close(compiled(**batch, use_cache=False).logits, expected[0])
                with model.without_wings():
                    found = compiled(**batch, use_cache=False).logits
                torch.testing.assert_close(found, expected[1])
    finally:
        torch._dynamo.reset()
