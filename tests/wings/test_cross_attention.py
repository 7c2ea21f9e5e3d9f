"""Gated cross-attention as the form of a learner: its definition, and a learner's guarantees."""

import copy
import random

import pytest
import torch
from draws import examples
from families import MAIN, Layouts, batch_of, build, chunked_logits, logits, packed, single
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from wings import WingsCache, WingsConfig, WingsForCausalLM, WingsStaticCache
from wings.errors import WingsError
from wings.eval.attention.learner_masses import LearnerMasses
from wings.upstream.weights import checkpoint_blocks

CLOSE = {"atol": 3e-5, "rtol": 2e-4}
RANDOM = examples(5, suppress_health_check=list(HealthCheck))


def cross(family="llama", awake=True, **options):
    return copy.deepcopy(build(family, awake, learner_form="cross_attention", **options))


def test_it_is_softmax_attention_without_rotary_positions_behind_a_tanh_gate():
    learner = cross(learners=("image",), router=None, rank=8).model.language_model.layers[0]
    learner = learner.self_attn.wings.image.double()
    assert learner.heads == 1 and sum(p.numel() for p in learner.parameters()) == 4 * 32 * 8 + 1
    found = []
    model = cross(learners=("image",), router=None, rank=8)
    block = model.model.language_model.layers[0].self_attn.wings.image
    block.register_forward_hook(lambda _, inputs, out: found.append((*inputs, out)))
    batch, _ = batch_of(model, [["text", "image", "text", "image", "text"]])
    logits(model, batch)
    x, source, _, gate, _, out = found[0]
    x, s, out = x[0].double(), source.tokens[0].double(), out[0].double()
    scores = x @ learner.w_q @ (s @ learner.w_k).T / 8**0.5
    size = model.config.image_seq_length
    # A query sees a whole image from its first token on.
    first = torch.tensor([1, 1 + size + 1]).repeat_interleave(size)
    sees = torch.arange(len(x))[:, None] >= first[None]
    weights = scores.masked_fill(~sees, -torch.inf).softmax(-1).nan_to_num(0)
    expected = learner.alpha.tanh() * (weights @ (s @ learner.w_v) @ learner.w_o)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)
    assert out[0].abs().max() == 0 and gate.shape == (1, len(x), 1)


@pytest.mark.parametrize("router", ["position", "attended", None])
@pytest.mark.parametrize("family", MAIN)
def test_fresh_ones_change_nothing_and_a_guard_keeps_text(family, router):
    options = {"router": router, "text_guard": True}
    plain = build(family, learners=())
    mixed, _ = batch_of(plain, [["text", "text", "image", "text"], ["image", "text"]])
    text, _ = batch_of(plain, [["text"] * 7, ["text"] * 3])
    real = mixed["attention_mask"].bool()
    before = logits(plain, mixed)[real]
    torch.testing.assert_close(logits(cross(family, False, **options), mixed)[real], before)
    awake = cross(family, **options)
    assert (logits(awake, mixed)[real] - before).abs().max() > 1e-3
    assert torch.equal(logits(awake, text), logits(plain, text))


@pytest.mark.parametrize("router", ["position", "attended", None])
@RANDOM
@given(seed=st.integers(0, 10_000))
def test_rows_are_the_same_alone_padded_packed_and_in_any_chunks(router, seed):
    model = cross(router=router, learners=("image", "text"))
    side = random.Random(seed).choice(["left", "right"])
    batch, alone = batch_of(model, Layouts(seed).rows(3), seed, side=side, extra=seed % 3)
    whole, mask = logits(model, batch), batch["attention_mask"].bool()
    rows = [logits(model, single(*row))[0] for row in alone]
    for row, expected in enumerate(rows):
        torch.testing.assert_close(whole[row][mask[row]], expected, **CLOSE)
    torch.testing.assert_close(logits(model, packed(alone))[0], torch.cat(rows), **CLOSE)
    left, _ = batch_of(model, Layouts(seed).rows(3), seed, side="left")
    expected = logits(model, left)
    for cache in (WingsCache(model.config), WingsStaticCache(model.config, 200)):
        found = chunked_logits(model, left, cache, random.Random(seed))
        kept = left["attention_mask"].bool()
        torch.testing.assert_close(found[kept], expected[kept], **CLOSE)


def test_it_is_saved_trained_and_shares_its_factors(tmp_path):
    model = cross(learners=("image", "text"), share_factors=True)
    model.save_pretrained(tmp_path)
    again = WingsForCausalLM.from_pretrained(tmp_path)
    batch, _ = batch_of(model, Layouts(3).rows(2))
    assert again.config.learner_form == "cross_attention"
    assert torch.equal(logits(again, batch), logits(model, batch))
    again.train()
    checkpoint_blocks(again, True)
    again(**batch, labels=batch["input_ids"] % 96).loss.backward()
    own = {n: p for n, p in again.named_parameters() if ".wings.image." in n}
    assert len(own) == 5 * 2 and all(p.grad.abs().sum() > 0 for p in own.values())
    assert set(again.parameter_groups()) >= {"image_learners", "router"}


def test_what_is_refused(tmp_path):
    model = build("llama")
    with pytest.raises(WingsError, match="learner_form is 'flamingo', but must be 'lorra' or"):
        WingsConfig(
            text_config=model.config.text_config,
            vision_config=model.config.vision_config,
            learner_form="flamingo",
        )
    model.save_pretrained(tmp_path)
    with pytest.raises(WingsError, match=r"lacks .*image\.alpha"):
        WingsForCausalLM.from_pretrained(tmp_path, learner_form="cross_attention")
    other = cross(learners=("image",), router=None)
    batch, _ = batch_of(other, [["image", "text"]])
    columns = torch.ones(1, batch["input_ids"].shape[1], 1)
    masses = LearnerMasses(columns, torch.ones_like(columns[..., 0], dtype=torch.bool), lambda t: t)
    with masses.watching(other), pytest.raises(WingsError, match="defined for LoRRA learners"):
        logits(other, batch)
