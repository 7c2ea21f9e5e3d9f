"""Counter-examples that a review found, each of which broke a promise once."""

import copy
import pickle

import pytest
import torch
from families import batch_of, build

from wings import WingsError
from wings.upstream.cache_name import cache_of

CLOSE = {"atol": 2e-5, "rtol": 1e-4}
GREEDY = {"do_sample": False, "max_new_tokens": 4, "pad_token_id": 0, "eos_token_id": None}


def logits(model, batch):
    with torch.no_grad():
        return model(**batch, use_cache=False).logits


def packed_of(alone):
    ids = [ids for ids, _ in alone]
    pictures = [own for _, own in alone if own is not None]
    return {
        "input_ids": torch.cat(ids, 1),
        "position_ids": torch.cat([torch.arange(one.shape[1]) for one in ids])[None],
    } | ({"pixel_values": torch.cat(pictures)} if pictures else {})


@pytest.mark.parametrize("learners", [("image", "text"), ()])
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
@pytest.mark.parametrize("has_positions", [False, True])
def test_decoding_goes_on_in_the_last_packed_sequence_only(family, learners, has_positions):
    model = build(family, learners=learners)
    _, alone = batch_of(model, [["text", "image", "text"], ["text", "image", "text", "text"]])
    packed = packed_of(alone)
    given = {name: packed[name][:, :-1] for name in ("input_ids", "position_ids")}
    with torch.no_grad():
        cache = model(**given, pixel_values=packed["pixel_values"], use_cache=True).cache
        last = {"input_ids": packed["input_ids"][:, -1:], "cache": cache}
        if has_positions:
            last["position_ids"] = packed["position_ids"][:, -1:]
        found = model(**last).logits[:, -1]
    ids, pictures = alone[1]
    expected = logits(model, {"input_ids": ids, "pixel_values": pictures})[:, -1]
    torch.testing.assert_close(found, expected, **CLOSE)


def test_a_packed_sequence_may_begin_in_a_later_chunk():
    model = build("llama")
    _, alone = batch_of(model, [["text", "image", "text"], ["text"] * 4])
    first, second = packed_of(alone[:1]), packed_of(alone[1:])
    with torch.no_grad():
        cache = model(**first, use_cache=True).cache
        found = model(**second, cache=cache).logits
    torch.testing.assert_close(found, logits(model, {"input_ids": alone[1][0]}), **CLOSE)


def test_a_first_token_is_not_asked_of_what_stands_before():
    model = build("llama")
    rows = [["text"] * 5, ["text"] * 4]
    _, alone = batch_of(model, rows)
    total = sum(model(input_ids=ids, labels=ids).loss * (ids.shape[1] - 1) for ids, _ in alone)
    expected = total / sum(ids.shape[1] - 1 for ids, _ in alone)
    packed = packed_of(alone)
    found = [model(**packed, labels=packed["input_ids"]).loss]
    for side in ("left", "right"):
        batch, _ = batch_of(model, rows, side=side)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        found.append(model(**batch, labels=labels).loss)
    for loss in found:
        torch.testing.assert_close(loss, expected, **CLOSE)


def test_padding_behind_a_later_turn_leaves_cached_tokens_in_place():
    model = build("llama", router="modality")
    ask = GREEDY | {"return_dict_in_generate": True, "output_logits": True}
    batch, alone = batch_of(model, [["text", "image", "text"], ["text"] * 3], side="left")
    turn, more = batch_of(model, [["text", "image", "text", "text"], ["text"] * 2], seed=7)
    out = model.generate(**batch, **ask)
    answers = out.sequences[:, -GREEDY["max_new_tokens"] :]
    masks = (batch["attention_mask"], torch.ones_like(answers), turn["attention_mask"])
    found = model.generate(
        input_ids=torch.cat([out.sequences, turn["input_ids"]], 1),
        attention_mask=torch.cat(masks, 1),
        pixel_values=turn["pixel_values"],
        cache=cache_of(out),
        **ask,
    )
    for row in range(2):
        ids = torch.cat([alone[row][0], answers[row : row + 1], more[row][0]], 1)
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if row == 0:
            given["pixel_values"] = torch.cat([alone[row][1], more[row][1]])
        expected = model.generate(**given, **ask).logits[0][0]
        torch.testing.assert_close(found.logits[0][row], expected, **CLOSE)


def test_learners_may_all_go_and_come_back():
    model = copy.deepcopy(build("llama"))
    batch, _ = batch_of(model, [["text", "image", "text"]])
    model.reconfigure(learners=())
    expected = logits(model, batch)
    model.reconfigure(learners=("image",))
    torch.testing.assert_close(logits(model, batch), expected, **CLOSE)
    assert "image_learners" in model.parameter_groups()


def test_packed_rows_train_after_all_learners_went():
    model = copy.deepcopy(build("llama")).train()
    model.reconfigure(learners=())
    ids, position_ids = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[0, 1, 0, 1]])
    model(ids, position_ids=position_ids, labels=ids).loss.backward()
    gradients = [parameter.grad for parameter in model.model.language_model.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_growing_keeps_each_learner_its_weight_and_refuses_whole():
    model = copy.deepcopy(build("llama"))
    batch, _ = batch_of(model, [["text", "image", "text"]])
    expected = logits(model, batch)
    model.reconfigure(learners=("text", "image"))
    assert torch.equal(logits(model, batch), expected)
    for bad in ({"router": "positions"}, {"learners": ("image", "image")}, {"rnak": 3}):
        with pytest.raises(WingsError):
            model.reconfigure(**bad)
    assert model.config.router == "position" and model.config.learners == ("image", "text")


def test_a_model_can_be_pickled():
    # One of its own: a decoder that was ever asked for hidden states keeps a hook of transformers'.
    model = build("llama", rank=5)
    batch, _ = batch_of(model, [["text", "image", "text"]])
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(logits(again, batch), logits(model, batch))


def test_guarded_text_may_be_longer_than_the_router_knows():
    model = build("llama", text_guard=True, router_positions=8)
    ids = torch.randint(3, 90, (1, 12))
    bare = model.extract_language_model()
    with torch.no_grad():
        assert torch.equal(model(ids).logits, bare(ids).logits)
        cache = model(ids, use_cache=True).cache
        picture, _ = batch_of(model, [["image", "text"]])
        del picture["attention_mask"]
        with pytest.raises(WingsError, match="beyond the 8"):
            model(**picture, cache=cache)


def test_a_picture_that_goes_on_later_follows_its_row():
    model = build("llama")
    batch, _ = batch_of(model, [["text", "image", "text"], ["image", "text", "text"]])
    ids, pictures = batch["input_ids"], batch["pixel_values"]
    expected = logits(model, batch)
    order = torch.tensor([1, 0])
    turns = {
        "reorder_cache": (order, order),
        "batch_select_indices": (order[:1], order[:1]),
        "batch_repeat_interleave": (2, torch.tensor([0, 0, 1, 1])),
    }
    for name, (argument, rows) in turns.items():
        with torch.no_grad():
            start = model(input_ids=ids[:, :3], pixel_values=pictures, use_cache=True)
            cache = start.cache
            getattr(cache, name)(argument)
            found = model(input_ids=ids[rows, 3:], cache=cache).logits
        torch.testing.assert_close(found, expected[rows, 3:], **CLOSE)


def test_cropping_forgets_a_picture_that_waits():
    model = build("llama")
    batch, _ = batch_of(model, [["text", "image", "text"]])
    ids, pictures = batch["input_ids"], batch["pixel_values"]
    with torch.no_grad():
        cache = model(input_ids=ids[:, :3], pixel_values=pictures, use_cache=True).cache
        cache.crop(-2)
        found = model(input_ids=ids[:, 1:], pixel_values=pictures, cache=cache).logits
    torch.testing.assert_close(found, logits(model, batch)[:, 1:], **CLOSE)
