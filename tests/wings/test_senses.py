"""The guarantees with three senses: images and two kinds of tones, on random layouts."""

import copy
import random

import pytest
import torch
from draws import examples
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from senses import aligned, batch_of, build, chunked_logits, logits, own_logits, rows_of, tone

from wings import WingsCache, WingsConfig, WingsError, WingsForCausalLM, WingsStaticCache
from wings.upstream.weights import checkpoint_blocks

CLOSE = {"atol": 2e-5, "rtol": 1e-4}
SEEDS = st.integers(0, 10_000)
FEW = examples(2, suppress_health_check=list(HealthCheck))
SENSES = ("image", "tone", "hum")
ROUTERS = ("attended", "modality", "position", None, ("attended", "modality", None))
RULES = ("sum", "mean", "newest", "attended")
# Every router and every rule; the mixed routers with the rule that reads masses.
KINDS = [*zip(ROUTERS, (*RULES[:3], "sum", "attended"), strict=True)]


@pytest.mark.parametrize(("router", "rule"), KINDS)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_fresh_learners_leave_every_logit(family, router, rule):
    model = build(family, router, guard=False, rule=rule, awake=False)
    batch, _ = batch_of(model, rows_of(3, 3))
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(logits(model, batch)[real], own_logits(model, batch)[real], **CLOSE)


@pytest.mark.parametrize("sense", SENSES)
def test_learners_of_every_sense_change_logits(sense):
    model = build()
    batch, _ = batch_of(model, [["text", sense, "text", "text"]])
    assert (logits(model, batch) - own_logits(model, batch)).abs().max() > 1e-3


@pytest.mark.parametrize(("router", "rule"), KINDS)
@FEW
@given(seed=SEEDS, guard=st.booleans())
def test_nothing_sees_the_future(router, rule, seed, guard):
    model = build("llama", router, guard, rule)
    senses = model.config.senses
    parts = rows_of(seed, 1, longest=10)[0]
    batch, _ = batch_of(model, [parts], seed)
    before = logits(model, batch)
    cut = random.Random(seed).randrange(len(parts))
    start = sum(1 if p == "text" else senses[p].seq_length for p in parts[:cut])
    changed = {name: value.clone() for name, value in batch.items()}
    tail = changed["input_ids"][:, start:]
    is_text = ~torch.isin(tail, torch.tensor([one.token_id for one in senses.values()]))
    tail[is_text] = (tail[is_text] + 7) % 90 + 3
    for name in {*parts[cut:]} - {"text"}:
        changed[senses[name].values_name][parts[:cut].count(name) :] += 1.0
    after = logits(model, changed)
    torch.testing.assert_close(after[:, :start], before[:, :start], **CLOSE)
    assert not torch.allclose(after[:, start:], before[:, start:], **CLOSE)


@pytest.mark.parametrize(("router", "rule"), KINDS)
@FEW
@given(seed=SEEDS, guard=st.booleans())
def test_rows_and_padding_do_not_matter(router, rule, seed, guard):
    model = build("llama", router, guard, rule)
    rows = rows_of(seed, 3)
    for side in ("left", "right"):
        batch, alone = batch_of(model, rows, seed, side, extra=seed % 3)
        together = logits(model, batch)
        for row, (ids, items) in enumerate(alone):
            real = batch["attention_mask"][row].bool()
            own = logits(model, {"input_ids": ids, **items})[0]
            torch.testing.assert_close(together[row][real], own, **CLOSE)


@pytest.mark.parametrize(("router", "rule"), KINDS)
@FEW
@given(seed=SEEDS, guard=st.booleans(), keeps_keys=st.booleans(), static=st.booleans())
def test_decoding_in_chunks_equals_one_pass(router, rule, seed, guard, keeps_keys, static):
    model = build("llama", router, guard, rule)
    batch, _ = batch_of(model, rows_of(seed, 2, longest=10), seed, side="left")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wings.cache.wings_cache.MOST_KEYS", 8192 if keeps_keys else 0)
        room = {"max_cache_len": batch["input_ids"].shape[1] + 3} if static else {}
        cache = (WingsStaticCache if static else WingsCache)(model.config, **room)
    found = chunked_logits(model, batch, cache, random.Random(seed))
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(found[real], logits(model, batch)[real], **CLOSE)


@pytest.mark.parametrize(("router", "rule"), KINDS)
@FEW
@given(seed=SEEDS, guard=st.booleans(), cached=st.booleans())
def test_packed_sequences_equal_sequences_alone(router, rule, seed, guard, cached):
    model = build("llama", router, guard, rule)
    _, alone = batch_of(model, rows_of(seed, 3), seed)
    expected = [logits(model, {"input_ids": ids, **items}) for ids, items in alone]
    names = {name for _, items in alone for name in items}
    items = {n: torch.cat([items[n] for _, items in alone if n in items]) for n in names}
    positions = torch.cat([torch.arange(ids.shape[1]) for ids, _ in alone])[None]
    with torch.no_grad():
        found = model(
            torch.cat([ids for ids, _ in alone], 1), position_ids=positions, use_cache=cached,
            **items,
        ).logits  # fmt: skip
    torch.testing.assert_close(found, torch.cat(expected, 1), **CLOSE)


@pytest.mark.parametrize(("router", "rule"), KINDS)
def test_text_is_bitwise_the_language_models(router, rule):
    model = build("llama", router, rule=rule)
    text, _ = batch_of(model, [["text"] * 9, ["text"] * 6])
    assert torch.equal(logits(model, text), own_logits(model, text))
    mixed, _ = batch_of(model, [["text"] * 9, ["text", "tone", "text"], ["image", "hum", "text"]])
    real = mixed["attention_mask"][0].bool()
    torch.testing.assert_close(
        logits(model, mixed)[0][real], own_logits(model, mixed)[0][real], atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("sense", SENSES)
@pytest.mark.parametrize(("router", "rule"), KINDS)
@examples(1)
@given(seed=SEEDS)
def test_a_row_with_one_sense_is_that_senses_model(router, rule, seed, sense):
    whole, alone = build("llama", router, rule=rule), build("llama", router, only=sense)
    rows = rows_of(seed, 2, senses=(sense,))
    batch, _ = batch_of(whole, rows, seed)
    own, _ = batch_of(alone, rows, seed)
    for name in batch.keys() - {"input_ids"}:
        assert torch.equal(batch[name], own[name])
    assert torch.equal(logits(whole, batch), logits(alone, own))
    with torch.no_grad():
        whole_cache, own_cache = WingsCache(whole.config), WingsCache(alone.config)
    draws = random.Random(seed), random.Random(seed)
    steps = chunked_logits(whole, batch, whole_cache, draws[0])
    assert torch.equal(steps, chunked_logits(alone, own, own_cache, draws[1]))
    # Beside rows with other senses to rounding.
    mixed, _ = batch_of(whole, [*rows, ["image", "text", "tone", "hum", "text"]], seed)
    length = batch["input_ids"].shape[1]
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(
        logits(whole, mixed)[:2, :length][real], logits(whole, batch)[real], **CLOSE
    )


def test_rules_differ_only_where_several_senses_are_seen():
    models = {rule: build(rule=rule) for rule in RULES}
    parts = ["text", "image", "text", "text", "tone", "text", "text"]
    before = sum(1 if p == "text" else 4 for p in parts[:4])
    found = {}
    for rule, model in models.items():
        batch, _ = batch_of(model, [parts])
        assert model.config.senses["image"].seq_length == 4
        found[rule] = logits(model, batch)
    for rule in RULES[1:]:
        torch.testing.assert_close(found[rule][:, :before], found["sum"][:, :before], **CLOSE)
        assert not torch.allclose(found[rule][:, before:], found["sum"][:, before:], atol=1e-4)


@pytest.mark.parametrize("rule", RULES)
def test_the_kernels_of_one_token_follow_every_rule(rule):
    """A row in which two senses share tokens, and rows in which one acts."""
    model = build("llama", "attended", rule=rule, wide=True)
    parts = ["text", "image", "text", "tone", "text"]
    for row in (parts, parts[:3], parts[2:]):
        batch, _ = batch_of(model, [row])
        found = {}
        for way in ("torch", "triton"):
            model.impl = way
            with torch.no_grad():
                cache = model(**batch, use_cache=True).cache
                token = torch.tensor([[7]])
                one = model(input_ids=token, cache=cache, output_router_weights=True)
                two = model(input_ids=token, cache=cache)
            found[way] = torch.cat([one.logits, two.logits]), one.router_weights
        model.impl = "auto"
        torch.testing.assert_close(found["triton"][0], found["torch"][0], **CLOSE)
        for ours, theirs in zip(found["triton"][1], found["torch"][1], strict=True):
            assert theirs.abs().max() > 1e-3
            torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("beams", [1, 2])
def test_generate_equals_steps_of_whole_rows(static, beams):
    model = build("llama", ("attended", "modality", None), rule="attended")
    rows = [["text", "image", "tone", "text"], ["hum", "text", "text"], ["text"] * 4]
    batch, alone = batch_of(model, rows, side="left")
    options = {"max_new_tokens": 4, "do_sample": False, "num_beams": beams, "pad_token_id": 0}
    kind = {"cache_implementation": "static", "disable_compile": True} if static else {}
    together = model.generate(**batch, **options, **kind)
    for row, (ids, items) in enumerate(alone):
        alone_ids = model.generate(input_ids=ids, **items, **options, use_cache=False)
        new = alone_ids[0, ids.shape[1] :]
        found = together[row, batch["input_ids"].shape[1] :][: len(new)]
        assert found.tolist() == new.tolist()


def test_a_conversation_goes_on_with_items_of_other_senses():
    model = build("llama", rule="mean")
    first, _ = batch_of(model, [["text", "image", "text"]])
    whole, _ = batch_of(model, [["text", "image", "text", "tone", "hum", "text"]])
    options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    cache = model(**first, use_cache=True).cache
    expected = model.generate(**whole, **options)
    new = {name: value for name, value in whole.items() if name != "pixel_values"}
    assert torch.equal(model.generate(**new, **options, past_key_values=cache), expected)


def test_a_training_step_reaches_every_part_of_every_sense():
    for rows in ([["text"] * 4], [["text", "image", "text"]], [["tone", "text"], ["hum", "text"]]):
        model = build("llama", ("attended", "modality", None), rule="attended").train()
        batch, _ = batch_of(model, rows)
        model(**batch, labels=batch["input_ids"]).loss.backward()
        groups = model.parameter_groups()
        for name in ("projector", "tone_projector", "hum_projector", "image_learners",
                     "text_learners", "tone_learners", "tone_text_learners", "hum_learners",
                     "router", "tone_router"):  # fmt: skip
            assert all(one.grad is not None for one in groups[name]), name
        seen = {part for row in rows for part in row} - {"text"}
        for sense in ("image", "tone", "hum"):
            moved = any(one.grad.abs().max() > 0 for one in groups[f"{sense}_learners"])
            assert moved == (sense in seen)
        model.eval()


def test_the_kernels_change_neither_logits_nor_gradients():
    model = build("llama", ("attended", "modality", None), rule="attended", wide=True)
    long = ["text", "text", "image", "text", "tone", "hum", "text", "text", "text"]
    batch, _ = batch_of(model, [long, *rows_of(8, 2)], side="left")
    ids, real = batch["input_ids"], batch["attention_mask"].bool()
    labels = ids.masked_fill(~real, -100)
    found = {}
    for way in ("triton", "torch"):
        model.impl = way
        model.zero_grad(set_to_none=True)
        out = model(**batch, labels=labels)
        out.loss.backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found[way] = out.logits.detach()[real], grads
    model.impl = "auto"
    torch.testing.assert_close(found["triton"][0], found["torch"][0], atol=2e-5, rtol=1e-4)
    assert found["triton"][1].keys() == found["torch"][1].keys()
    for name, gradient in found["torch"][1].items():
        assert gradient.abs().max() > 1e-6 or "norm" in name or "k_proj.bias" in name, name
        scale = float(gradient.abs().max()) + 1e-6
        mine = found["triton"][1][name] / scale
        torch.testing.assert_close(
            mine, gradient / scale, atol=1e-4, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_each_row_alone(checkpointing):
    model = build("llama", ("attended", "modality", None), rule="mean").train()
    rows = [["text", "image", "tone", "text", "text"], ["text", "hum", "text"], ["text"] * 4]
    batch, alone = batch_of(model, rows)
    checkpoint_blocks(model, checkpointing)

    def gradients(batches):
        model.zero_grad(set_to_none=True)
        for one in batches:
            logits = model(**one).logits
            mask = one.get("attention_mask", torch.ones_like(one["input_ids"])).bool()
            logits[mask].square().sum().backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}

    together = gradients([batch])
    checkpoint_blocks(model, False)
    expected = gradients([{"input_ids": ids, **items} for ids, items in alone])
    for name, gradient in expected.items():
        scale = float(gradient.abs().max()) + 1e-6
        torch.testing.assert_close(
            together[name] / scale,
            gradient / scale,
            atol=1e-4,
            rtol=0,
            msg=lambda text, name=name: f"{name}: {text}",
        )
    model.eval()


def test_weights_of_all_learners_are_returned_by_block():
    model = build("llama", rule="mean")
    batch, _ = batch_of(model, [["text", "tone", "text"], ["text", "image", "text"]], side="left")
    with torch.no_grad():
        weights = model(**batch, output_router_weights=True).router_weights
    # Of images and of tones two learners each, and of hums one in the second block alone.
    assert [one.shape[-1] for one in weights] == [4, 5]
    assert not weights[1][..., 4].any() and not weights[0][0, :, :2].any()
    assert weights[0][0, -1, 2] > 0 and weights[0][1, -1, 0] > 0


def test_learners_of_a_further_sense_are_added_and_taken_off():
    model = copy.deepcopy(build("llama", "modality"))
    batch, _ = batch_of(model, rows_of(5, 3))
    before = logits(model, batch)
    # Learners that stay keep their outputs of the router, in whatever order they are named.
    model.reconfigure(other_senses={"tone": {"learners": ["text", "tone"]}})
    assert model.config.senses["tone"].learners == ("tone", "text")
    assert torch.equal(logits(model, batch), before)
    model.reconfigure(other_senses={"hum": {"learners": ["text", "hum"], "router": None}})
    assert model.config.senses["hum"].learners == ("hum", "text")
    # A new learner starts without effect.
    torch.testing.assert_close(logits(model, batch), before, **CLOSE)
    model.reconfigure(other_senses={"tone": {"learners": []}})
    assert "tone_learners" not in model.parameter_groups()
    for changes, message in (
        ({"smell": {"router": None}}, r"no sense 'smell' to reconfigure; it has 'tone', 'hum'"),
        ({"tone": {"rank": 8}}, r"'rank' of 'tone' cannot be reconfigured"),
        ({"tone": {"router": "modlity"}}, r"router is 'modlity'"),
    ):
        with pytest.raises(WingsError, match=message):
            model.reconfigure(other_senses=changes)
    assert [*model.config.senses] == list(SENSES)


def test_a_checkpoint_keeps_every_sense(tmp_path):
    model = build("llama", ("attended", "modality", None), rule="newest")
    batch, _ = batch_of(model, rows_of(5, 3))
    model.save_pretrained(tmp_path)
    again = aligned(WingsForCausalLM.from_pretrained(tmp_path))
    assert again.config.senses.keys() == {"image", "tone", "hum"}
    assert again.config.senses_rule == "newest"
    assert torch.equal(logits(again, batch), logits(model, batch))


def test_a_model_may_lack_images():
    model = build("llama", only="tone")
    batch, _ = batch_of(model, rows_of(1, 2, senses=("tone",)))
    assert logits(model, batch).isfinite().all()
    with pytest.raises(WingsError, match="'pixel_values' was given, but the model has no such"):
        model(**batch, pixel_values=torch.zeros(1, 3, 16, 16))


def test_items_and_tokens_that_do_not_match_are_refused():
    model = build()
    batch, _ = batch_of(model, [["text", "tone", "text"], ["tone", "tone"]])
    with pytest.raises(WingsError, match=r"tone_values has 2 items of tone.*make 3.*row 1"):
        model(**{**batch, "tone_values": batch["tone_values"][:2]})
    with pytest.raises(WingsError, match="'smell_values' was given, but the model has no such"):
        model(**batch, smell_values=torch.zeros(1, 5))
    with pytest.raises(WingsError, match="an item of tone was cut"):
        model(input_ids=batch["input_ids"][:, :2], tone_values=batch["tone_values"][:2],
              use_cache=False, labels=batch["input_ids"][:, :2])  # fmt: skip


@pytest.mark.parametrize(
    ("senses", "message"),
    [
        ({"Tone": tone(2)}, "lower-case"),
        ({"text": tone(2)}, "none of"),
        ({"tone": {"rank": 4}}, "encoder is missing"),
        ({"tone": {**tone(2), "gaurd": True}}, r"no field 'gaurd' \(did you mean 'guard'\?\)"),
        ({"tone": {**tone(2), "rank": 0}}, r"other_senses\['tone'\].rank is 0"),
        ({"tone": {**tone(2), "learners": ["image"]}}, "names 'tone' and 'text' at most once"),
        ({"tone": {**tone(2), "learner_layers": [7]}}, "names block 7"),
        ({"tone": {**tone(2), "token_id": 96}, "hum": {**tone(3), "token_id": 96}}, "one token id"),
        ({"tone": {**tone(2), "encoder": {"type": "tonse"}}}, "type 'tonse'"),
        (["tone"], "a mapping from names of senses to their fields"),
    ],
)
def test_bad_senses_are_refused(senses, message):
    from families import VISION, text_config

    with pytest.raises(WingsError, match=message):
        config = WingsConfig(
            text_config=text_config("llama"), vision_config=VISION, other_senses=senses, rank=4
        )
        WingsForCausalLM(config)
