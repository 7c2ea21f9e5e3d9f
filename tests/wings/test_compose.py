"""Senses that were trained apart, on one language model."""

import random

import pytest
import torch
from draws import examples
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from senses import aligned, batch_of, build, chunked_logits, logits, own_logits, rows_of

from wings import WingsCache, WingsError, WingsForCausalLM

CLOSE = {"atol": 2e-5, "rtol": 1e-4}
FEW = examples(2, suppress_health_check=list(HealthCheck))
SEEDS = st.integers(0, 10_000)
RULES = ("sum", "mean", "newest", "attended")
SENSES = ("image", "tone", "hum")


def models(router="attended", family="llama", senses=SENSES):
    return [build(family, router, only=sense) for sense in senses]


@pytest.mark.parametrize("rule", RULES)
@FEW
@given(seed=SEEDS)
def test_each_row_is_that_of_the_model_with_its_sense(rule, seed):
    order = SENSES if rule in ("sum", "newest") else SENSES[::-1]
    parts = dict(zip(SENSES, models(("attended", "modality", None)), strict=True))
    whole = WingsForCausalLM.compose(*(parts[name] for name in order), rule=rule)
    text, _ = batch_of(whole, [["text"] * 5, ["text"] * 3], seed)
    assert torch.equal(logits(whole, text), own_logits(whole, text))
    for sense, model in parts.items():
        rows = rows_of(seed, 2, senses=(sense,))
        ours, theirs = batch_of(whole, rows, seed)[0], batch_of(model, rows, seed)[0]
        assert torch.equal(logits(whole, ours), logits(model, theirs))
        draws = random.Random(seed), random.Random(seed)
        assert torch.equal(
            chunked_logits(whole, ours, WingsCache(whole.config), draws[0]),
            chunked_logits(model, theirs, WingsCache(model.config), draws[1]),
        )
        mixed, _ = batch_of(whole, [*rows, ["image", "text", "tone", "hum", "text"]], seed)
        length, real = ours["input_ids"].shape[1], ours["attention_mask"].bool()
        found = logits(whole, mixed)[:2, :length][real]
        torch.testing.assert_close(found, logits(whole, ours)[real], **CLOSE)


@pytest.mark.parametrize("family", ["gemma2", "lfm2", "qwen3"])
def test_other_families_are_composed_too(family):
    whole = WingsForCausalLM.compose(*models(family=family, senses=SENSES[:2]))
    for sense in SENSES[:2]:
        model, rows = build(family, only=sense), rows_of(3, 2, senses=(sense,))
        ours, theirs = batch_of(whole, rows)[0], batch_of(model, rows)[0]
        assert torch.equal(logits(whole, ours), logits(model, theirs))


def test_composed_models_are_saved_and_loaded_whole_and_as_learners(tmp_path):
    whole = WingsForCausalLM.compose(*models(), rule="attended")
    batch, _ = batch_of(whole, rows_of(4, 3))
    expected = logits(whole, batch)
    whole.save_pretrained(tmp_path / "whole")
    again = aligned(WingsForCausalLM.from_pretrained(tmp_path / "whole"))
    assert torch.equal(logits(again, batch), expected)
    whole.config.llm_trained = False
    whole.save_pretrained(tmp_path / "learners", learners_only=True)
    text = whole.extract_language_model()
    again = aligned(WingsForCausalLM.from_pretrained(tmp_path / "learners", text=text))
    assert torch.equal(logits(again, batch), expected)
    assert again.config.senses_rule == "attended"


def test_generate_of_a_composed_row_is_that_of_its_sense():
    whole = WingsForCausalLM.compose(*models())
    for sense in SENSES:
        rows = [["text", sense, "text"], ["text"] * 3]
        ours, theirs = (batch_of(m, rows, side="left")[0] for m in (whole, build(only=sense)))
        for options in ({"num_beams": 2}, {"cache_implementation": "static"}):
            options |= {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0,
                        "disable_compile": True}  # fmt: skip
            found = whole.generate(**ours, **options)
            expected = build(only=sense).generate(**theirs, **options)
            length = ours["input_ids"].shape[1]
            assert torch.equal(found[:, length:], expected[:, length:])


@pytest.mark.parametrize("gone", SENSES)
def test_dropping_a_sense_is_exact(gone):
    whole = WingsForCausalLM.compose(*models(("attended", "modality", None)))
    left = [sense for sense in SENSES if sense != gone]
    rows = rows_of(7, 3, senses=left)
    before = logits(whole, batch_of(whole, rows)[0])
    whole.drop(gone)
    assert [*whole.config.senses] == left
    assert not any(gone in name.replace("lm_head", "") for name in whole.state_dict())
    assert torch.equal(logits(whole, batch_of(whole, rows)[0]), before)
    whole.drop(left[0])
    model = build("llama", ("attended", "modality", None), only=left[1])
    assert whole.state_dict().keys() == model.state_dict().keys()
    with pytest.raises(WingsError, match=f"'{left[1]}' is the model's only sense"):
        whole.drop(left[1])
    with pytest.raises(WingsError, match="has no sense 'smell' to drop; it has"):
        whole.drop("smell")


def test_the_models_that_are_composed_stay_as_they_are():
    first, second = models(senses=SENSES[:2])
    rows = rows_of(2, 2, senses=("image",))
    before = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    whole = WingsForCausalLM.compose(first, second)
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.add_(1.0)
    assert [*first.config.senses] == ["image"] and [*second.config.senses] == ["tone"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in first.state_dict().items())
    assert logits(first, batch_of(first, rows)[0]).isfinite().all()


def test_models_that_do_not_fit_together_are_refused():
    first, second = models(senses=SENSES[:2])
    with pytest.raises(WingsError, match="only one model was given"):
        WingsForCausalLM.compose(first)
    with pytest.raises(WingsError, match="rule is 'both', but must be 'sum'"):
        WingsForCausalLM.compose(first, second, rule="both")
    with pytest.raises(WingsError, match="Model 2 has the sense 'image', and one before it too"):
        WingsForCausalLM.compose(first, build(only="image", router="modality"))
    free = build(only="tone", guard=False)
    with pytest.raises(WingsError, match=r"'tone' act without a guard.*guard: true"):
        WingsForCausalLM.compose(first, free)
    with pytest.raises(WingsError, match="only one has the tensor"):
        WingsForCausalLM.compose(first, build("qwen3", only="tone"))
    name = "model.language_model.layers.1.mlp.up_proj.weight"
    weight = second.get_parameter(name)
    old = weight.data.clone()
    try:
        weight.data.view(torch.int32)[3, 3] ^= 1
        with pytest.raises(WingsError, match=f"the tensor '{name}' of model 2 is not that"):
            WingsForCausalLM.compose(first, second)
    finally:
        weight.data.copy_(old)
