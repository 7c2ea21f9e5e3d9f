"""The guarantees, on random layouts and many decoder families."""

import copy

import pytest
import torch
from draws import examples
from families import (
    FAMILIES,
    HYBRIDS,
    MAIN,
    VISION,
    Layouts,
    batch_of,
    build,
    chunked_logits,
    logits,
    own_logits,
    packed,
    single,
    text_config,
)
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from wings import WingsCache, WingsConfig, WingsError, WingsForCausalLM, WingsStaticCache

EVERY = [family for family in FAMILIES if family not in HYBRIDS]
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
SEEDS = st.integers(0, 10_000)
# Each case has layouts of its own: together they are many.
RANDOM = examples(3, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("router", ["position", "modality", "attended", None])
@pytest.mark.parametrize("family", EVERY)
def test_fresh_learners_leave_every_logit(family, router):
    model = build(family, awake=False, router=router)
    batch, _ = batch_of(model, Layouts(3).rows(3))
    real = batch["attention_mask"].bool()
    ours, own = logits(model, batch)[real], own_logits(model, batch)[real]
    if router is None:
        assert torch.equal(ours, own)
    torch.testing.assert_close(ours, own, **CLOSE)


@pytest.mark.parametrize("family", EVERY)
def test_learners_that_act_change_logits(family):
    model = build(family)
    batch, _ = batch_of(model, [["text", "image", "text", "text"]])
    assert (logits(model, batch) - own_logits(model, batch)).abs().max() > 1e-3


@pytest.mark.parametrize("router", ["position", "modality", "attended", None])
@pytest.mark.parametrize("family", MAIN)
@RANDOM
@given(seed=SEEDS)
def test_nothing_sees_the_future(family, router, seed):
    model = build(family, router=router)
    layouts = Layouts(f"{family} {router} {seed}")
    parts = layouts.row(longest=10)
    batch, _ = batch_of(model, [parts], seed)
    before = logits(model, batch)
    cut = layouts.random.randrange(len(parts))
    start = sum(model.config.image_seq_length if p == "image" else 1 for p in parts[:cut])
    changed = {name: value.clone() for name, value in batch.items()}
    tail = changed["input_ids"][:, start:]
    is_text = tail != model.config.image_token_id
    tail[is_text] = (tail[is_text] + 7) % 90 + 3
    if "image" in parts[cut:]:
        changed["pixel_values"][parts[:cut].count("image") :] += 1.0
    after = logits(model, changed)
    torch.testing.assert_close(after[:, :start], before[:, :start], **CLOSE)
    assert not torch.allclose(after[:, start:], before[:, start:], **CLOSE)


@pytest.mark.parametrize("router", ["position", "modality", "attended", None])
@pytest.mark.parametrize("family", [*MAIN, "gpt2", "olmo2"])
@RANDOM
@given(seed=SEEDS)
def test_rows_and_padding_do_not_matter(family, router, seed):
    model = build(family, router=router)
    rows = Layouts(f"{family} {router} {seed}").rows(3)
    for side in ("left", "right"):
        batch, alone = batch_of(model, rows, seed, side, extra=seed % 3)
        together = logits(model, batch)
        for row, (ids, pictures) in enumerate(alone):
            single = {"input_ids": ids}
            if pictures is not None:
                single["pixel_values"] = pictures
            real = batch["attention_mask"][row].bool()
            torch.testing.assert_close(together[row][real], logits(model, single)[0], **CLOSE)


@pytest.mark.parametrize("guard", [False, True])
@pytest.mark.parametrize("router", ["position", "modality", "attended", None])
@pytest.mark.parametrize("family", MAIN)
@RANDOM
@given(seed=SEEDS)
def test_decoding_in_chunks_equals_one_pass(family, router, guard, seed):
    model = build(family, router=router, text_guard=guard)
    layouts = Layouts(f"{family} {router} {guard} {seed}")
    keeps_keys, static = layouts.random.choices([False, True], k=2)
    batch, _ = batch_of(model, layouts.rows(2, longest=10), seed, side="left")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wings.cache.wings_cache.MOST_KEYS", 8192 if keeps_keys else 0)
        make = WingsStaticCache if static else WingsCache
        cache = make(
            model.config, **({"max_cache_len": batch["input_ids"].shape[1] + 3} if static else {})
        )
    found, whole = chunked_logits(model, batch, cache, layouts.random), logits(model, batch)
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(found[real], whole[real], **CLOSE)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("router", ["position", "modality", "attended", None])
@pytest.mark.parametrize("family", MAIN)
@RANDOM
@given(seed=SEEDS)
def test_packed_sequences_equal_sequences_alone(family, router, cached, seed):
    model = build(family, router=router)
    layouts = Layouts(f"{family} {router} {cached} {seed}")
    _, alone = batch_of(model, layouts.rows(3), seed)
    expected = [logits(model, single(*row)) for row in alone]
    with torch.no_grad():
        found = model(**packed(alone), use_cache=cached).logits
    torch.testing.assert_close(found, torch.cat(expected, 1), **CLOSE)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("family", MAIN)
def test_packing_does_not_leak_without_learners(family, cached):
    model = build(family, learners=())
    _, alone = batch_of(model, [["text", "image", "text"], ["text"] * 5])
    ids = [ids for ids, _ in alone]
    mask = torch.ones(1, sum(one.shape[1] for one in ids), dtype=torch.long)
    with torch.no_grad():
        found = model(**packed(alone), attention_mask=mask, use_cache=cached).logits[
            :, ids[0].shape[1] :
        ]
    torch.testing.assert_close(found, logits(model, {"input_ids": ids[1]}), **CLOSE)


def test_packing_is_refused_where_state_would_leak():
    config = WingsConfig(text_config=text_config("falcon_h1"), vision_config=VISION, rank=4)
    model = WingsForCausalLM(config).eval()
    ids = torch.randint(3, 90, (1, 6))
    assert model(input_ids=ids).logits.isfinite().all()
    with pytest.raises(WingsError, match="recurrent"):
        model(input_ids=ids, position_ids=torch.tensor([[0, 1, 2, 0, 1, 2]]))


def test_hybrid_decoders_carry_wings_beside_their_attention():
    model = build("lfm2")
    assert model.config.layers_with_learners == (1,)
    batch, _ = batch_of(model, Layouts(3).rows(2))
    assert logits(model, batch).isfinite().all()


@pytest.mark.parametrize("family", EVERY)
def test_text_guard_is_exact_on_text(family):
    model = build(family, text_guard=True)
    text, _ = batch_of(model, [["text"] * 9, ["text"] * 6])
    assert torch.equal(logits(model, text), own_logits(model, text))
    no_picture = text | {"pixel_values": torch.empty(0, 3, 16, 16)}
    assert torch.equal(logits(model, no_picture), own_logits(model, text))
    mixed, _ = batch_of(model, [["text"] * 9, ["text", "image", "text"]])
    real = mixed["attention_mask"][0].bool()
    ours, own = logits(model, mixed), own_logits(model, mixed)
    torch.testing.assert_close(ours[0][real], own[0][real], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(ours[1], own[1], atol=1e-3)


@pytest.mark.parametrize("family", EVERY)
def test_the_language_model_comes_out_unharmed(family):
    model = build(family)
    torch.manual_seed(5)
    bare = model.extract_language_model()
    names = {name for name in bare.state_dict()}
    assert not any("wings" in name for name in names)
    ids = torch.randint(3, 90, (2, 9))
    torch.testing.assert_close(
        bare(ids, use_cache=False).logits,
        build(family, awake=False, router=None)(ids, use_cache=False).logits,
        **CLOSE,
    )


@pytest.mark.parametrize("family", EVERY)
def test_pretrained_parts_prove_identity(family, tmp_path):
    from wings.model.inject import build_causal_lm

    torch.manual_seed(2)
    bare = build_causal_lm(text_config(family)).eval()
    bare.save_pretrained(tmp_path)
    ids = torch.randint(3, 90, (2, 9))
    with torch.no_grad():
        expected = bare(ids).logits
    model = WingsForCausalLM.from_vision_text_pretrained(VISION, str(tmp_path), rank=4)
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, expected, **CLOSE)
    kept = {n.removeprefix("model.language_model.") for n in model.state_dict()}
    decoder = AutoModelForCausalLM.from_pretrained(tmp_path).get_decoder()
    assert set(decoder.state_dict()) <= kept


def test_models_are_independent_copies():
    model = build("llama")
    twin = copy.deepcopy(model)
    batch, _ = batch_of(model, [["text", "image", "text"]])
    assert torch.equal(logits(model, batch), logits(twin, batch))
