"""What a cache keeps when texts are cropped, go on with pictures, and carry gradients."""

import copy

import pytest
import torch
from families import batch_of, build

from wings import WingsCache, WingsError, WingsStaticCache

CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def whole(model, **batch):
    with torch.no_grad():
        return model(**batch, use_cache=False).logits


def begun(model, **batch):
    with torch.no_grad():
        return model(**batch, use_cache=True).cache


def followed(model, cache, ids, **more):
    with torch.no_grad():
        return model(input_ids=ids, cache=cache, **more).logits


def test_a_text_goes_on_after_its_picture_was_cropped_away():
    model = build("llama")
    batch, _ = batch_of(model, [["text"] * 4 + ["image", "text"]])
    cache, more = begun(model, **batch), torch.tensor([[5, 6, 7]])
    cache.crop(-5)
    found = followed(model, cache, more)
    ids = torch.cat([batch["input_ids"][:, :4], more], 1)
    torch.testing.assert_close(found, whole(model, input_ids=ids)[:, 4:], **CLOSE)


def test_a_picture_goes_on_after_all_text_was_cropped_away():
    model = build("llama")
    batch, _ = batch_of(model, [["image", "text"]])
    cache, pictures = begun(model, **batch), batch["pixel_values"]
    cache.crop(-1)
    image = batch["input_ids"][:, :4]
    found = followed(model, cache, image, pixel_values=pictures)
    twice = {"input_ids": torch.cat([image, image], 1), "pixel_values": torch.cat([pictures] * 2)}
    torch.testing.assert_close(found, whole(model, **twice)[:, 4:], **CLOSE)


def test_a_cache_may_be_cropped_to_nothing_and_used_again():
    model = build("llama")
    batch, _ = batch_of(model, [["text", "image", "text"]])
    cache = begun(model, **batch)
    cache.crop(-batch["input_ids"].shape[1])
    found = followed(model, cache, batch["input_ids"], pixel_values=batch["pixel_values"])
    torch.testing.assert_close(found, whole(model, **batch), **CLOSE)


def test_cropping_nothing_leaves_a_picture_that_waits():
    model = build("llama")
    batch, _ = batch_of(model, [["text", "image", "text"]])
    ids, pictures = batch["input_ids"], batch["pixel_values"]
    cache = begun(model, input_ids=ids[:, :3], pixel_values=pictures)
    cache.crop(0)
    found = followed(model, cache, ids[:, 3:])
    torch.testing.assert_close(found, whole(model, **batch)[:, 3:], **CLOSE)


def test_a_picture_that_waited_in_vain_leaves_nothing():
    """Its features were cropped away; the next picture's take the slots of its own tokens."""
    model = build("llama")
    image = model.config.image_token_id
    generator = torch.Generator().manual_seed(3)
    pictures = torch.randn(3, 3, 16, 16, generator=generator)
    first = torch.tensor([[image] * 4 + [9], [11, 12, 13, 14, image]])
    cache = begun(model, input_ids=first, pixel_values=pictures[:2])
    cache.crop(-1)
    second = torch.tensor([[21, 22], [image, image]])
    followed(model, cache, second, pixel_values=pictures[2:])
    followed(model, cache, torch.tensor([[23, 24, 25], [image, image, 15]]))
    cache.crop(-1)
    found = followed(model, cache, torch.tensor([[26, 27], [16, 17]]))
    ids = torch.tensor(
        [[image] * 4 + [21, 22, 23, 24, 26, 27], [11, 12, 13, 14] + [image] * 4 + [16, 17]]
    )
    expected = whole(model, input_ids=ids, pixel_values=pictures[[0, 2]])
    torch.testing.assert_close(found, expected[:, -2:], **CLOSE)


def test_a_copy_goes_its_own_way():
    model = build("llama")
    batch, _ = batch_of(model, [["text", "image", "text"]])
    cache = begun(model, **batch)
    other = copy.deepcopy(cache)
    for one, token in ((cache, 5), (other, 6), (cache, 7), (other, 8)):
        followed(model, one, torch.tensor([[token]]))
    for one, tokens in ((cache, [5, 7]), (other, [6, 8])):
        found = followed(model, one, torch.tensor([[9]]))
        ids = torch.cat([batch["input_ids"], torch.tensor([[*tokens, 9]])], 1)
        expected = whole(model, input_ids=ids, pixel_values=batch["pixel_values"])
        torch.testing.assert_close(found, expected[:, -1:], **CLOSE)


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_an_image_in_pieces_is_kept_once(chunk):
    model = build("llama")
    batch, _ = batch_of(model, [["image"]])
    ids, cache = batch["input_ids"], WingsCache(model.config)
    pictures = {"pixel_values": batch["pixel_values"]}
    for start in range(0, 4, chunk):
        followed(model, cache, ids[:, start : start + chunk], **(pictures if not start else {}))
    assert cache.learners.products["image"].source.tokens.value.shape[1] == 4


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("most_keys", [8192, 0])
def test_gradients_flow_through_chunks(monkeypatch, most_keys, frozen):
    monkeypatch.setattr("wings.cache.wings_cache.MOST_KEYS", most_keys)
    model = build("llama")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".wings." in name or not (frozen or "vision_tower" in name))
    batch, _ = batch_of(model, [["text", "image", "text", "text", "text"]])
    ids, pictures = batch["input_ids"], batch["pixel_values"]
    found = []
    for cuts in ((8,), (6, 7, 8)):
        model.zero_grad(set_to_none=True)
        cache, start, total = WingsCache(model.config), 0, 0.0
        for stop in cuts:
            given = {"pixel_values": pictures} if start == 0 else {}
            chunk = ids[:, start:stop]
            total = total + model(input_ids=chunk, cache=cache, **given).logits.sin().sum()
            start = stop
        total.backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        scale = float(gradient.abs().max()) + 1e-9
        torch.testing.assert_close(found[1][name] / scale, gradient / scale, atol=1e-3, rtol=0)


def test_inference_mode_and_no_grad_may_take_turns():
    model = build("llama")
    batch, _ = batch_of(model, [["text", "image", "text"]])
    with torch.inference_mode():
        cache = model(**batch, use_cache=True).cache
        model(input_ids=torch.tensor([[5]]), cache=cache)
    found = followed(model, cache, torch.tensor([[6]]))
    ids = torch.cat([batch["input_ids"], torch.tensor([[5, 6]])], 1)
    expected = whole(model, input_ids=ids, pixel_values=batch["pixel_values"])
    torch.testing.assert_close(found, expected[:, -1:], **CLOSE)


def test_wings_may_have_a_dtype_of_their_own():
    model = copy.deepcopy(build("llama", router="modality"))
    for module in model.modules():
        if type(module).__name__ == "WingsLayer":
            module.double()
    batch, _ = batch_of(model, [["text", "image", "text"]])
    expected = whole(build("llama", router="modality"), **batch)
    torch.testing.assert_close(whole(model, **batch), expected, **CLOSE)


def test_a_static_cache_knows_its_slots_and_cannot_be_cropped():
    model = build("llama")
    cache = WingsStaticCache(model.config, 9)
    for ids in ([[3, 4, 5, 6]], [[7, 8]]):
        followed(model, cache, torch.tensor(ids))
    assert cache.learners.products["text"].source.slots.value[0].tolist() == [
        0,
        1,
        2,
        3,
        4,
        5,
        -1,
        -1,
        -1,
    ]
    with pytest.raises(WingsError, match="cannot be cropped"):
        cache.crop(-1)
