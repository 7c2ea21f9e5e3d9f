"""`generate` with pictures: greedy, sampled, beams, padding, conversations that go on."""

import pytest
import torch
from families import MAIN, VISION, Layouts, batch_of, build, text_config
from transformers import DynamicCache

from wings import WingsCache, WingsConfig, WingsError, WingsForCausalLM
from wings.upstream.cache_name import cache_of

STEPS = 6


def generate(model, batch, **more):
    more = {"do_sample": False, "max_new_tokens": STEPS, "pad_token_id": 0} | more
    return model.generate(**batch, eos_token_id=None, **more)


def by_hand(model, ids, pictures):
    """Greedy decoding by whole forward passes, without a cache."""
    for _ in range(STEPS):
        with torch.no_grad():
            given = {} if pictures is None else {"pixel_values": pictures}
            scores = model(input_ids=ids, use_cache=False, **given).logits[:, -1]
        ids = torch.cat([ids, scores.argmax(-1, keepdim=True)], 1)
    return ids[:, -STEPS:]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("router", ["position", "modality", "attended", None])
@pytest.mark.parametrize("family", MAIN)
def test_greedy_equals_whole_passes(family, router, side):
    model = build(family, router=router)
    batch, alone = batch_of(model, Layouts(8).rows(3), side=side)
    found = generate(model, batch)[:, -STEPS:]
    assert torch.equal(generate(model, batch, use_cache=False)[:, -STEPS:], found)
    for row, (ids, pictures) in enumerate(alone):
        assert torch.equal(found[row : row + 1], by_hand(model, ids, pictures))


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_beams_follow_their_pictures(family):
    model = build(family)
    rows = [["image", "image", "text"], ["text"], ["text", "image", "text", "image"]]
    batch, alone = batch_of(model, rows, side="left")
    found = generate(model, batch, num_beams=3, num_return_sequences=2)[:, -STEPS:]
    for row, (ids, pictures) in enumerate(alone):
        given = {"input_ids": ids} | ({} if pictures is None else {"pixel_values": pictures})
        given["attention_mask"] = torch.ones_like(ids)
        single = generate(model, given, num_beams=3, num_return_sequences=2)[:, -STEPS:]
        assert torch.equal(found[2 * row : 2 * row + 2], single)


def test_sampling_is_reproducible_and_penalties_skip_image_tokens():
    model = build("llama")
    batch, _ = batch_of(model, [["text", "image", "text"]])
    draws = []
    for _ in range(2):
        torch.manual_seed(0)
        draws.append(generate(model, batch, do_sample=True, top_k=20, repetition_penalty=1.3))
    assert torch.equal(*draws)
    assert not (draws[0][:, -STEPS:] == model.config.image_token_id).any()


@pytest.mark.parametrize("guard", [False, True])
@pytest.mark.parametrize("router", ["position", "modality", "attended", None])
def test_a_conversation_goes_on_with_a_new_picture(router, guard):
    model = build("llama", router=router, text_guard=guard)
    for first in (["text", "image", "text"], ["text"] * 4):
        batch, _ = batch_of(model, [first])
        out = generate(model, batch, return_dict_in_generate=True)
        turn, _ = batch_of(model, [["text", "image", "text", "text"]], seed=7)
        ids = torch.cat([out.sequences, turn["input_ids"]], 1)
        pictures = [b["pixel_values"] for b in (batch, turn) if "pixel_values" in b]
        whole = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": torch.cat(pictures),
        }
        expected = by_hand(model, ids, whole["pixel_values"])
        for given in (whole["pixel_values"], turn["pixel_values"]):
            cache = cache_of(out)
            size = cache.get_seq_length()
            found = generate(model, whole | {"pixel_values": given}, cache=cache)
            assert torch.equal(found[:, -STEPS:], expected)
            cache.crop(size - cache.get_seq_length())
            assert cache.learners.layout.table.shape[1] == size == cache.get_seq_length()


def test_assisted_cropping_keeps_both_halves():
    model = build("llama")
    batch, _ = batch_of(model, [["text", "image", "text", "text", "text"]])
    with torch.no_grad():
        cache = model(**batch, use_cache=True).cache
        expected = model(**batch, use_cache=False).logits[:, -2:]
        cache.crop(-2)
        found = model(
            input_ids=batch["input_ids"][:, -2:],
            attention_mask=batch["attention_mask"],
            cache=cache,
        ).logits
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_a_text_prompt_costs_no_vision_work(monkeypatch):
    model = build("llama")
    batch, _ = batch_of(model, [["text"] * 5])
    expected = generate(model, batch)

    def forbidden(*args):
        raise AssertionError("the vision tower ran")

    monkeypatch.setattr(model.model.vision_tower, "forward", forbidden)
    assert torch.equal(generate(model, batch), expected)


def test_foreign_caches_are_refused():
    model = build("llama")
    batch, _ = batch_of(model, [["text", "image", "text"]])
    with pytest.raises(WingsError, match="DynamicCache"):
        model(**batch, cache=DynamicCache())
    with pytest.raises(WingsError, match="quantized"):
        generate(model, batch, cache_implementation="quantized")


@pytest.mark.parametrize("whole", [False, True])
def test_the_cache_is_as_small_as_promised(monkeypatch, whole):
    if not whole:
        monkeypatch.setattr("wings.cache.wings_cache.MOST_KEYS", 0)
    model = build("llama")
    batch, _ = batch_of(model, [["text"] * 30 + ["image"]])
    with torch.no_grad():
        cache = model(**batch, use_cache=True).cache
    assert isinstance(cache, WingsCache)
    config, length = model.config, batch["input_ids"].shape[1]
    buffers = [
        buffer
        for products in cache.learners.products.values()
        for block in products.blocks.values()
        for buffer in (
            products.source.tokens,
            products.source.ropes,
            block.compressed,
            block.keys,
        )
    ]
    numbers = sum(buffer.value.numel() for buffer in set(buffers) - {None})
    blocks = len(config.layers_with_learners)
    head = config.hidden_size // config.text_config.num_attention_heads
    keys = config.hidden_size * blocks if whole else 0
    assert numbers == length * (config.hidden_size + head + 2 * config.rank * blocks + keys)


def test_images_and_placeholders_must_agree():
    model = build("llama")
    batch, _ = batch_of(model, [["text", "image"], ["image", "text", "image"]])
    with pytest.raises(WingsError, match=r"has 2 images.*make 3.*row 1"):
        model(**batch | {"pixel_values": batch["pixel_values"][:2]})
    with pytest.raises(WingsError, match=r"has 4 images.*make 3.*row 1"):
        model(**batch | {"pixel_values": batch["pixel_values"][[0, 1, 2, 2]]})
    cut = {"input_ids": batch["input_ids"][1:, :3], "pixel_values": batch["pixel_values"][:1]}
    with pytest.raises(WingsError, match=r"Row 0 has 3 image tokens.*takes 4.*cut"):
        model(**cut, use_cache=False)
    with pytest.raises(WingsError, match="has 0 images"):
        model(input_ids=batch["input_ids"])
    with pytest.raises(WingsError, match=r"attention_mask' is \[2, 3\]"):
        model(input_ids=batch["input_ids"], attention_mask=torch.ones(2, 3))
    with pytest.raises(WingsError, match="pixel_values"):
        model(**batch | {"pixel_values": batch["pixel_values"][..., :5]})


def test_an_interrupted_image_is_refused():
    model = build("llama")
    batch, _ = batch_of(model, [["text", "text", "text"], ["image", "text", "image"]])
    ids = batch["input_ids"].clone()
    ids[1, 3:5] = ids[1, 3:5].flip(0)
    with pytest.raises(WingsError, match="Row 1 has other tokens between the 4"):
        model(**batch | {"input_ids": ids})


def test_a_position_beyond_the_router_is_refused():
    model = build("llama", router_positions=8)
    batch, _ = batch_of(model, [["text"] * 9])
    with pytest.raises(WingsError, match=r"Position 8 .*beyond the 8"):
        model(**batch)
    ids = batch["input_ids"][:, :4]
    with pytest.raises(WingsError, match=r"Position 12"):
        model(input_ids=ids, position_ids=torch.arange(9, 13)[None])
    assert build("llama", router="modality", router_positions=8)(**batch).logits.isfinite().all()


def test_empty_and_tiny_inputs():
    model = build("llama")
    one = torch.tensor([[5]])
    assert model(input_ids=one).logits.shape[1] == 1
    picture = {"input_ids": torch.full((1, 4), model.config.image_token_id)}
    picture["pixel_values"] = torch.randn(1, 3, 16, 16)
    assert model(**picture).logits.isfinite().all()
    padding = {"input_ids": torch.zeros(2, 3, dtype=torch.long)}
    padding["attention_mask"] = torch.tensor([[0, 0, 0], [1, 1, 0]])
    assert model(**padding).logits.isfinite().all()


def test_pictures_of_one_token():
    vision = {"vision_cfg": {**VISION["vision_cfg"], "image_size": 8}}
    torch.manual_seed(0)
    model = WingsForCausalLM(
        WingsConfig(text_config=text_config("llama"), vision_config=vision, rank=4)
    )
    assert model.config.image_seq_length == 1
    for name, parameter in model.named_parameters():
        if ".wings." in name:
            parameter.data.normal_(std=0.2)
    image = model.config.image_token_id
    ids, pictures = torch.tensor([[5, image, 6, image]]), torch.randn(2, 3, 8, 8)
    whole = model(input_ids=ids, pixel_values=pictures).logits
    assert not torch.equal(whole, model(input_ids=ids, pixel_values=pictures + 1).logits)
    whole.logsumexp(-1).sum().backward()
    for name, parameter in model.named_parameters():
        if ".wings." in name:
            assert parameter.grad.isfinite().all() and parameter.grad.any(), name
