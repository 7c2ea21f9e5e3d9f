"""The attended router: learners as loud as the block looks at pictures, one learner or two."""

import copy
import math

import pytest
import torch
from draws import examples
from families import MAIN, Layouts, batch_of, build, chunked_logits, packed, single
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from wings import WingsCache, WingsForCausalLM, WingsStaticCache
from wings.layers.router import GAIN, AttendedRouter

CLOSE = {"atol": 2e-5, "rtol": 1e-4}
SEEDS = st.integers(0, 10_000)
# Each case has layouts of its own: together they are many.
RANDOM = examples(3, suppress_health_check=list(HealthCheck))
LEARNERS = [("image",), ("text",), ("image", "text")]


def attended(family="llama", learners=("image",), **more):
    return build(family, learners=learners, router="attended", **more)


def routers(model):
    return [module for module in model.modules() if isinstance(module, AttendedRouter)]


def passed(model, batch, **more):
    with torch.no_grad():
        return model(**batch, **{"use_cache": False, **more})


def logits(model, batch):
    return passed(model, batch).logits


def expected_weights(model, batch, attentions):
    """Of each block, from the definition: `[B, T, M]` float64."""
    images = batch["input_ids"] == model.config.image_token_id
    for router, matrix in zip(routers(model), attentions, strict=True):
        mass = (matrix.double().mean(1) * images[:, None, :]).sum(-1)
        parts = []
        for name in model.config.learners:
            raw = router.get_parameter(name).double()
            weight = torch.tanh(torch.log1p(raw.exp()) * mass)
            if name == "image":
                begun = images.cumsum(1) > 0
            else:
                begun = ((batch["attention_mask"] > 0) & ~images).cumsum(1) > 0
            parts.append(weight * begun)
        yield torch.stack(parts, dim=-1)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("learners", LEARNERS)
@pytest.mark.parametrize("family", MAIN)
def test_weights_are_the_mass_on_pictures(family, learners, side):
    model = attended(family, learners)
    rows = [["text", "image", "text", "text"], ["text"] * 4, ["image", "text", "image", "text"]]
    batch, _ = batch_of(model, rows, side=side)
    out = passed(model, batch, output_attentions=True, output_router_weights=True)
    real = batch["attention_mask"].bool()
    found = out.router_weights
    assert len(found) == 2 and found[0].shape[-1] == len(learners)
    loudest = 0.0
    for mine, own in zip(found, expected_weights(model, batch, out.attentions), strict=True):
        torch.testing.assert_close(mine[real].double(), own[real], atol=1e-5, rtol=1e-4)
        loudest = max(loudest, own[real].max().item())
    assert loudest > 0.1
    # The row of text alone has none, and neither has the text before a picture.
    assert not found[0][1][real[1]].any() and not found[0][0][real[0]][0].any()


def test_a_fresh_gain_makes_a_tenth_of_the_attention_two_thirds():
    router = AttendedRouter(("image", "text"))
    raw = torch.stack(list(router.parameters()))
    torch.testing.assert_close(torch.nn.functional.softplus(raw), torch.full_like(raw, GAIN))
    gates = type("Open", (), {"close": staticmethod(lambda weights: weights)})
    mass = torch.tensor([[[0.0], [0.1], [1.0], [1.01]]])
    weights = router(mass, None, gates)
    assert weights[0, :, 0].tolist() == weights[0, :, 1].tolist()
    wanted = [0.0, math.tanh(0.8), math.tanh(8.0), math.tanh(8.08)]
    assert weights[0, :, 0].tolist() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("learners", LEARNERS)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_every_gain_learns_where_there_is_a_picture(family, learners):
    model = copy.deepcopy(attended(family, learners)).train()
    for rows, learns in ((["text", "image", "text", "text"], True), (["text"] * 5, False)):
        batch, _ = batch_of(model, [rows])
        model.zero_grad(set_to_none=True)
        model(**batch, labels=batch["input_ids"] % 96).loss.backward()
        for router in routers(model):
            for parameter in router.parameters():
                assert parameter.grad is not None and bool(parameter.grad.any()) == learns


def test_the_gradient_is_that_of_finite_differences():
    router = AttendedRouter(("image", "text")).double()
    gates = type("Open", (), {"close": staticmethod(lambda weights: weights)})
    mass = torch.rand(1, 5, 1) * 0.2
    router(mass, None, gates).sum().backward()
    gain = GAIN
    slope = (mass * (1 - torch.tanh(gain * mass) ** 2)).sum() * (1 - math.exp(-gain))
    for parameter in router.parameters():
        assert parameter.grad.item() == pytest.approx(slope.item(), rel=1e-5)


@pytest.mark.parametrize("learners", LEARNERS)
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_text_alone_runs_the_decoder(family, learners):
    """The learners act, at full size, and add exact zeros: no guard is needed for that."""
    model, without = attended(family, learners), build(family, learners=())
    text, _ = batch_of(model, [["text"] * 9, ["text"] * 5])
    real = text["attention_mask"].bool()
    expected = logits(without, text)
    torch.testing.assert_close(logits(model, text)[real], expected[real], **CLOSE)


@pytest.mark.parametrize("learners", [("image",), ("text",)])
@pytest.mark.parametrize("family", MAIN)
@RANDOM
@given(seed=SEEDS)
def test_a_single_learner_keeps_the_guarantees(family, learners, seed):
    """Neither rows nor padding nor packing nor a cache matters; nothing sees the future."""
    model = attended(family, learners)
    layouts = Layouts(f"{family} {learners} {seed}")
    static = layouts.random.random() < 0.5
    batch, alone = batch_of(model, layouts.rows(2, longest=10), seed, side="left")
    whole, real = logits(model, batch), batch["attention_mask"].bool()
    rows = [logits(model, single(*row)) for row in alone]
    for row, expected in enumerate(rows):
        torch.testing.assert_close(whole[row][real[row]], expected[0], **CLOSE)
    torch.testing.assert_close(logits(model, packed(alone)), torch.cat(rows, 1), **CLOSE)
    room = batch["input_ids"].shape[1] + 3
    cache = WingsStaticCache(model.config, room) if static else WingsCache(model.config)
    found = chunked_logits(model, batch, cache, layouts.random)
    torch.testing.assert_close(found[real], whole[real], **CLOSE)

    own, pixels = alone[0]
    changed = own.clone()
    changed[0, -1] = (changed[0, -1] + 7) % 90 + 3
    if own[0, -1] != model.config.image_token_id:
        found = logits(model, single(changed, pixels))
        torch.testing.assert_close(found[:, :-1], rows[0][:, :-1], **CLOSE)


def test_a_learner_that_comes_later_leaves_the_others_their_gain(tmp_path):
    model = attended()
    batch, _ = batch_of(model, Layouts(3).rows(2))
    assert model.config.is_routed and len(model.parameter_groups()["router"]) == 2
    model.save_pretrained(tmp_path)
    again = WingsForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(again, batch), logits(model, batch))
    grown = WingsForCausalLM.from_pretrained(tmp_path, learners=("image", "text"))
    torch.testing.assert_close(logits(grown, batch), logits(model, batch), **CLOSE)
    for new, old in zip(routers(grown), routers(model), strict=True):
        assert torch.equal(new.image, old.image)
        assert torch.nn.functional.softplus(new.text).item() == pytest.approx(GAIN)
    grown.reconfigure(router="modality")
    assert not routers(grown)
    grown.reconfigure(router="attended")
    assert len(routers(grown)) == 2
    # The other routers weigh learners against one another: alone, one has none.
    grown.reconfigure(learners=("image",), router="modality")
    assert not grown.config.is_routed and "router" not in grown.parameter_groups()
