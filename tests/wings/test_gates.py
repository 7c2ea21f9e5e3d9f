"""Shapes of the attended router's gate: values, gradients, detached masses, and checkpoints."""

import copy
import math

import pytest
import torch
from families import Layouts, batch_of, build

from wings import WingsConfig, WingsForCausalLM
from wings.errors import WingsError
from wings.layers.router import GAIN, TAU, AttendedRouter

OPEN = type("Open", (), {"close": staticmethod(lambda weights: weights)})
SHAPES = ("tanh", "hill")


def definition(shape, value, mass, power=8.0):
    if mass == 0:
        return 0.0
    return math.tanh(value * mass) if shape == "tanh" else 1 / (1 + (value / mass) ** power)


def routers(model):
    return [module for module in model.modules() if isinstance(module, AttendedRouter)]


def logits(model, batch):
    with torch.no_grad():
        return model(**batch, use_cache=False).logits


@pytest.mark.parametrize("power", [2.0, 8.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_gate_is_its_definition(shape, power):
    router = AttendedRouter(("image", "text"), shape, power=power)
    masses = [0.0, 1e-6, 0.05, 0.1, 0.14, 0.3, 1.0, 1.01]
    fresh = {"tanh": GAIN, "hill": TAU}[shape]
    for value in (fresh, 0.02, 0.5, 20.0):
        if value != fresh:
            router.set(value)
        assert router.values() == pytest.approx(dict.fromkeys(router.names, value), rel=1e-5)
        found = router(torch.tensor(masses)[None, :, None], None, OPEN)[0]
        expected = [definition(shape, value, mass, power) for mass in masses]
        assert found[:, 0].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-30)
        assert torch.equal(found[:, 0], found[:, 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_no_mass_is_exactly_zero_with_finite_gradients(shape, dtype):
    router = AttendedRouter(("image",), shape).to(dtype)
    tiny = [0.0, 1e-38, 1e-30, 1e-12, 1e-4, 0.2]
    mass = torch.tensor(tiny, dtype=dtype)[None, :, None].requires_grad_()
    for value in (1e-6, 0.14, 100.0):
        router.zero_grad()
        mass.grad = None
        router.set(value)
        weights = router(mass, None, OPEN)
        assert weights.dtype == torch.float32 and weights[0, 0, 0].item() == 0.0
        weights.sum().backward()
        (parameter,) = router.parameters()
        for gradient in (mass.grad, parameter.grad):
            assert gradient.isfinite().all()


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_finite_differences(shape):
    router = AttendedRouter(("image",), shape)
    mass = (torch.rand(1, 6, 1) * 0.3 + 0.01).requires_grad_()
    router(mass, None, OPEN).sum().backward()
    value, step = router.values()["image"], 1e-6
    for found, at in zip(mass.grad.flatten(), mass.detach().flatten().tolist(), strict=True):
        low, high = (definition(shape, value, at + sign * step) for sign in (-1, 1))
        assert found.item() == pytest.approx((high - low) / (2 * step), rel=1e-3, abs=1e-6)
    (parameter,) = router.parameters()
    raw = parameter.item()

    def total(raw):
        value = math.log1p(math.exp(raw)) if shape == "tanh" else math.exp(raw)
        return sum(definition(shape, value, at) for at in mass.flatten().tolist())

    expected = (total(raw + 1e-5) - total(raw - 1e-5)) / 2e-5
    assert parameter.grad.item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_detached_mass_carries_no_gradient_and_the_parameter_learns(shape):
    mass = torch.full((1, 3, 1), 0.12, requires_grad=True)
    found = {}
    for detach in (False, True):
        router = AttendedRouter(("image",), shape, detach=detach)
        mass.grad = None
        out = router(mass, None, OPEN)
        out.sum().backward()
        (parameter,) = router.parameters()
        assert parameter.grad.item() != 0
        found[detach] = out
        assert (mass.grad is None) == detach
    assert torch.equal(found[False], found[True])


def test_a_detached_gate_changes_the_gradient_of_no_logit():
    """Same logits; only the main attention's queries and keys learn less."""
    batch, _ = batch_of(build("llama", router="attended"), [["text", "image", "text"]])
    gradients = {}
    for detach in (False, True):
        model = copy.deepcopy(build("llama", router="attended", gate_detach=detach)).train()
        out = model(**batch, labels=batch["input_ids"] % 96)
        out.loss.backward()
        named = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        gradients[detach] = (out.loss.item(), named)
    assert gradients[False][0] == gradients[True][0]
    (_, through), (_, detached) = gradients.values()
    assert through.keys() == detached.keys()
    last = "layers.1.self_attn"
    differs = {name for name in through if not torch.equal(through[name], detached[name])}
    assert any(f"{last}.q_proj" in name for name in differs)
    # What comes after the gate, and the gate itself, learn exactly the same in the last block.
    assert not [name for name in differs if f"{last}.wings" in name or "lm_head" in name]


@pytest.mark.parametrize("learners", [("image",), ("image", "text")])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_hill_gate_in_a_model_is_its_definition(family, learners):
    model = copy.deepcopy(build(family, learners=learners, router="attended", gate_shape="hill"))
    model.set_gate(tau=0.3)
    batch, _ = batch_of(model, [["text", "image", "text", "text"], ["text"] * 4], side="left")
    images = batch["input_ids"] == model.config.image_token_id
    with torch.no_grad():
        out = model(**batch, use_cache=False, output_attentions=True, output_router_weights=True)
    assert max(weights.max().item() for weights in out.router_weights) > 0.02
    for weights, matrix in zip(out.router_weights, out.attentions, strict=True):
        mass = (matrix.double().mean(1) * images[:, None, :]).sum(-1)
        expected = 1 / (1 + (0.3 / mass) ** 8)
        begun = (images.cumsum(1) > 0) & (batch["attention_mask"] > 0)
        torch.testing.assert_close(
            weights[..., 0].double()[begun], expected[begun], atol=1e-5, rtol=1e-3
        )
        assert not weights[1].any()


def test_a_finished_model_gets_a_gate_that_is_saved(tmp_path):
    model = copy.deepcopy(build("llama", router=None, text_guard=True))
    batch, _ = batch_of(model, Layouts(3).rows(2))
    before = logits(model, batch)
    with pytest.raises(WingsError, match="no attended router"):
        model.set_gate(gain=8.0)
    model.reconfigure(router="attended")
    model.set_gate(gain=3.0)
    gated = logits(model, batch)
    assert not torch.equal(gated, before)
    model.save_pretrained(tmp_path / "tanh")
    again = WingsForCausalLM.from_pretrained(tmp_path / "tanh")
    assert torch.equal(logits(again, batch), gated)
    assert all(router.values()["image"] == pytest.approx(3.0) for router in routers(again))

    hill = WingsForCausalLM.from_pretrained(tmp_path / "tanh", gate_shape="hill")
    assert hill.config.gate_shape == "hill"
    # A gain of 3 must not become a threshold.
    assert all(router.values()["text"] == pytest.approx(TAU) for router in routers(hill))
    hill.set_gate(tau=0.05)
    hill.save_pretrained(tmp_path / "hill")
    again = WingsForCausalLM.from_pretrained(tmp_path / "hill")
    assert torch.equal(logits(again, batch), logits(hill, batch))
    again.reconfigure(gate_detach=True)
    assert torch.equal(logits(again, batch), logits(hill, batch))
    assert all(router.detach for router in routers(again))
    again.reconfigure(router=None)
    assert torch.equal(logits(again, batch), before)


def test_a_configuration_without_a_shape_is_tanh():
    model = build("llama", router="attended")
    fields = model.config.to_dict()
    for name in ("gate_shape", "gate_power", "gate_detach"):
        del fields[name]
    old = WingsConfig(**fields)
    assert (old.gate_shape, old.gate_detach) == ("tanh", False)
    assert {n for n, _ in routers(model)[0].named_parameters()} == {"image", "text"}


def test_wrong_values_are_refused():
    model = copy.deepcopy(build("llama", router="attended"))
    for given, said in (
        ({}, "has a gain: give gain alone"),
        ({"tau": 0.1}, "has a gain"),
        ({"gain": 8.0, "tau": 0.1}, "give gain alone"),
        ({"gain": 0.0}, "must be positive"),
        ({"gain": float("nan")}, "must be positive"),
    ):
        with pytest.raises(WingsError, match=said):
            model.set_gate(**given)
    for field, value in (("gate_shape", "step"), ("gate_power", 0.0)):
        with pytest.raises(WingsError, match=field):
            model.reconfigure(**{field: value})
    assert model.config.gate_shape == "tanh" and model.config.gate_power == 8.0
