"""No linear layer's weight is read past its forward: adapters that are put there must act."""

import copy

import pytest
import torch
from families import FAMILIES, VISION, batch_of, build
from peft import LoraConfig, get_peft_model
from torch import nn

from wings.encoders.open_clip_tower import VisionTower

TOWERS = {
    "open_clip": VISION,
    "timm": {
        "vision_cfg": {
            "timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "none", "image_size": 64
        }
    },
    "timm with pooling": {
        "vision_cfg": {
            "timm_model_name": "test_vit3", "timm_pool": "", "timm_proj": "none", "image_size": 64
        }
    },
}  # fmt: skip


def uncalled(module, run):
    """Names of the linear layers that `run` reads without calling them, or does not use."""
    called = set()
    linear = {n: m for n, m in module.named_modules() if isinstance(m, nn.Linear)}
    handles = [
        layer.register_forward_hook(lambda *_, name=name: called.add(name))
        for name, layer in linear.items()
    ]
    run()
    for handle in handles:
        handle.remove()
    return sorted(linear.keys() - called)


@pytest.mark.parametrize("name", TOWERS)
def test_every_linear_layer_of_a_tower_is_called(name):
    tower = VisionTower(TOWERS[name])
    size = tower.config["image_size"]
    size = (size, size) if isinstance(size, int) else size
    assert not uncalled(tower, lambda: tower(torch.randn(1, 3, *size)))


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_linear_layer_of_a_model_is_called(family):
    model = build(family, router="modality")
    batch, _ = batch_of(model, [["text", "image", *["text"] * 8]])

    def run():
        with torch.no_grad():
            model(**batch)

    # An expert that no token chose is not called.
    assert not [name for name in uncalled(model, run) if "expert" not in name]


@pytest.mark.parametrize("merged", [False, True])
def test_an_adapter_on_every_linear_layer_acts_before_it_is_merged(merged):
    model = build("llama", router="modality")
    batch, _ = batch_of(model, [["text", "image", "text", "text"]])
    options = LoraConfig(target_modules="all-linear", r=2, init_lora_weights=False)
    torch.manual_seed(0)
    tuned = get_peft_model(copy.deepcopy(model), options).eval()
    with torch.no_grad():
        acting = tuned(**batch).logits
        assert (acting - model(**batch).logits).abs().max() > 1e-3
        found = (tuned.merge_and_unload() if merged else tuned)(**batch).logits
    torch.testing.assert_close(found, acting, atol=1e-3, rtol=1e-3)


def test_an_adapter_on_the_towers_output_projection_is_refused():
    options = LoraConfig(target_modules=["out_proj"], r=2)
    with pytest.raises(ValueError, match="not supported"):
        get_peft_model(copy.deepcopy(build("llama", router="modality")), options)
