"""The vision tower: the features are the encoder's own, and any encoder will do."""

import json

import huggingface_hub
import open_clip
import pytest
import timm
import torch
from open_clip.model import _build_vision_tower
from safetensors.torch import save_file

from wings.encoders.open_clip_tower import VisionTower
from wings.encoders.tower_config import canonical_config
from wings.errors import WingsError

CFG = {"image_size": 28, "patch_size": 14, "width": 32, "layers": 3, "head_width": 16}
NATIVE = {"vision_cfg": CFG}
TIMM = {"vision_cfg": {"timm_model_name": "test_vit", "image_size": 64}}
KINDS = {
    "native": NATIVE,
    "native, last layer": {**NATIVE, "select_layer": -1},
    "native, first block": {**NATIVE, "select_layer": 0},
    "native, odd grid pooled": {"vision_cfg": {**CFG, "image_size": 70}, "pool": 2},
    "native, not square": {"vision_cfg": {**CFG, "image_size": [28, 42]}},
    "native, quick gelu": {**NATIVE, "quick_gelu": True},
    "timm": TIMM,
    "timm, pooled": {**TIMM, "pool": 2},
    "timm, relative": {"vision_cfg": {"timm_model_name": "test_vit_relpos", "image_size": 64}},
    "timm, convolutions": {"vision_cfg": {"timm_model_name": "test_convnext", "image_size": 64}},
}


def pixels_for(tower, count=2):
    size = tower.config["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=KINDS, ids=lambda name: name.replace(" ", "-"))
def tower(request):
    torch.manual_seed(0)
    return VisionTower(KINDS[request.param])


def test_sizes_are_what_comes_out(tower):
    features = tower(pixels_for(tower))
    assert features.shape == (2, tower.image_seq_length, tower.hidden_size)
    assert features.isfinite().all() and features.std() > 0
    none = tower(pixels_for(tower, 0))
    assert none.shape == (0, *features.shape[1:]) and none.dtype == tower.dtype


def test_images_do_not_touch_each_other(tower):
    pixels = pixels_for(tower, 3)
    alone = torch.cat([tower(one[None]) for one in pixels])
    assert torch.allclose(tower(pixels), alone, atol=1e-5)


def test_config_rebuilds_it_offline(tower, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = json.loads(json.dumps(tower.config))
    again = VisionTower(config)
    assert again.config == tower.config == canonical_config(config)
    again.load_state_dict(tower.state_dict())
    pixels = pixels_for(tower)
    assert torch.equal(again(pixels), tower(pixels))


def test_meta_construction(tower):
    with torch.device("meta"):
        empty = VisionTower(tower.config)
    assert (empty.image_seq_length, empty.hidden_size) == (
        tower.image_seq_length,
        tower.hidden_size,
    )
    assert all(tensor.is_meta for tensor in empty.parameters())
    empty.to_empty(device="cpu")
    for tensor in empty.buffers():
        tensor.fill_(7)
    empty.load_state_dict(tower.state_dict())
    empty.reset_buffers()
    pixels = pixels_for(tower)
    assert torch.equal(empty(pixels), tower(pixels))


def test_there_is_something_to_reset():
    """Guards the test above: without a buffer outside the checkpoint it would prove nothing."""
    tower = VisionTower(KINDS["timm, relative"])
    assert {name for name, _ in tower.named_buffers()} - set(tower.state_dict())


def test_frozen_and_in_evaluation_mode(tower):
    tower.train()
    assert not any(module.training for module in tower.modules())
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    tower.requires_grad_(True)
    parent = torch.nn.Sequential(tower).train()
    assert parent.training and not tower.training
    assert not any(parameter.requires_grad for parameter in tower.parameters())


def test_pixels_are_cast_to_the_weights(tower):
    pixels = pixels_for(tower)
    want = tower(pixels)
    tower.to(torch.bfloat16)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        got = tower(pixels.to(dtype))
        assert got.dtype == torch.bfloat16
        assert (got.float() - want).norm() < 0.05 * want.norm()


@pytest.mark.parametrize("layer", [0, 1, 2, -1, -2, -3])
def test_features_are_the_blocks_own(layer):
    """Against the whole encoder, unpruned: the output of that block without the class token."""
    torch.manual_seed(0)
    whole = _build_vision_tower(16, dict(CFG)).eval()
    seen = {}
    for index, block in enumerate(whole.transformer.resblocks):
        block.register_forward_hook(lambda m, i, out, index=index: seen.update({index: out}))
    tower = VisionTower({**NATIVE, "select_layer": layer})
    keep = {name: whole.state_dict()[name] for name in tower.visual.state_dict()}
    tower.visual.load_state_dict(keep)
    pixels = pixels_for(tower)
    with torch.no_grad():
        whole(pixels)
    assert torch.allclose(tower(pixels), seen[layer % 3][:, 1:], atol=1e-5)


def test_no_leftovers():
    names = set(VisionTower(NATIVE).state_dict())
    assert "visual.transformer.resblocks.1.ln_1.weight" in names
    assert not any("resblocks.2" in name or "ln_post" in name or name == "proj" for name in names)
    timm_names = set(VisionTower(TIMM).state_dict())
    assert not any("head" in name or "trunk.norm." in name for name in timm_names)


def test_pooling_averages_two_by_two():
    torch.manual_seed(0)
    plain = VisionTower({"vision_cfg": {**CFG, "image_size": 70}})
    pooled = VisionTower({"vision_cfg": {**CFG, "image_size": 70}, "pool": 2})
    pooled.load_state_dict(plain.state_dict())
    grid = plain(pixels_for(plain)).unflatten(1, (5, 5))
    got = pooled(pixels_for(plain)).unflatten(1, (3, 3))
    assert torch.allclose(got[:, 0, 1], grid[:, 0:2, 2:4].mean((1, 2)), atol=1e-5)
    assert torch.allclose(got[:, 2, 0], grid[:, 4, 0:2].mean(1), atol=1e-5), "the odd rim"
    assert torch.allclose(got[:, 2, 2], grid[:, 4, 4], atol=1e-5)


def write_folder(folder, model_cfg, weights, preprocess=None, name="open_clip_model.safetensors"):
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess or {}}
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    if name.endswith(".safetensors"):
        save_file({key: value.contiguous() for key, value in weights.items()}, folder / name)
    else:
        torch.save(weights, folder / name)
    return f"local-dir:{folder}"


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
@pytest.mark.parametrize("prefix", ["visual.", ""])
def test_local_folder(tmp_path, monkeypatch, prefix, name):
    """A folder with a whole CLIP, or with the tower alone, whose text half could not be built."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.manual_seed(0)
    whole = _build_vision_tower(16, dict(CFG)).eval()
    weights = {f"{prefix}{key}": value for key, value in whole.state_dict().items()}
    if prefix:
        weights |= {"text.token_embedding.weight": torch.zeros(2, 2), "logit_scale": torch.ones(1)}
    model_cfg = {
        "embed_dim": 16,
        "vision_cfg": CFG,
        "text_cfg": {"hf_model_name": "nobody/nothing"},
        "quick_gelu": True,
    }
    preprocess = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear"}
    folder = write_folder(tmp_path / "clip", model_cfg, weights, preprocess, name)
    tower = VisionTower.from_pretrained(folder)
    assert tower.config["image_mean"] == [0.1, 0.2, 0.3]
    assert tower.config["image_std"] == [0.4, 0.5, 0.6]
    assert tower.config["interpolation"] == "bilinear" and tower.config["quick_gelu"] is True
    assert tower.config["resize_mode"] == "pad" and "model_name" not in tower.config
    for key, value in tower.visual.state_dict().items():
        assert torch.equal(value, whole.state_dict()[key]), key
    pooled = VisionTower.from_pretrained({"model_name": folder, "pool": 2, "select_layer": -1})
    assert pooled.image_seq_length == 1 and not pooled.training
    assert torch.equal(pooled.state_dict()["visual.conv1.weight"], whole.conv1.weight)
    assert not any(parameter.requires_grad for parameter in pooled.parameters())
    assert canonical_config(folder) == tower.config


def test_hub_without_a_network(tmp_path, monkeypatch):
    """A repository that was fetched once is taken from the Hub's cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--someone--tower"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots").mkdir()
    whole = _build_vision_tower(16, dict(CFG))
    weights = {f"visual.{key}": value for key, value in whole.state_dict().items()}
    write_folder(repository / "snapshots" / ("0" * 40), {"vision_cfg": CFG}, weights)
    tower = VisionTower.from_pretrained("hf-hub:someone/tower")
    assert torch.equal(tower.visual.conv1.weight, whole.conv1.weight)
    assert "someone" not in json.dumps(tower.config)
    with pytest.raises(
        WingsError, match=r"no readable open_clip_config.json in hf-hub:someone/else"
    ):
        VisionTower.from_pretrained("hf-hub:someone/else")
    with pytest.raises(WingsError, match="cannot be fetched"):
        VisionTower.from_pretrained("ViT-B-32/openai")


def test_local_folder_of_another_size(tmp_path):
    torch.manual_seed(0)
    for cfg, trunk in (
        ({"timm_model_name": "test_vit", "image_size": 160}, timm.create_model("test_vit")),
        (dict(CFG), None),
    ):
        source = trunk or _build_vision_tower(16, dict(cfg))
        prefix = "visual.trunk." if trunk else "visual."
        weights = {f"{prefix}{key}": value for key, value in source.state_dict().items()}
        folder = write_folder(tmp_path / "size", {"vision_cfg": cfg}, weights)
        same = VisionTower.from_pretrained(folder)
        assert torch.isfinite(same(pixels_for(same))).all()
        size = cfg["image_size"] * 2
        double = VisionTower.from_pretrained({"model_name": folder, "image_size": size})
        assert double.config["image_size"] == double.config["vision_cfg"]["image_size"] == size
        assert double.image_seq_length == 4 * same.image_seq_length
        # The same flat picture twice as large: resized positions keep the features close.
        flat = same(torch.ones(1, 3, size // 2, size // 2)).mean(1)
        large = double(torch.ones(1, 3, size, size)).mean(1)
        assert torch.nn.functional.cosine_similarity(flat, large).item() > 0.9


def test_weights_that_do_not_fit_are_named(tmp_path):
    weights = _build_vision_tower(16, dict(CFG)).state_dict()
    del weights["conv1.weight"]
    folder = write_folder(tmp_path / "a", {"vision_cfg": CFG}, weights)
    with pytest.raises(WingsError, match=r"lacks 1 of the \d+ tensors .* conv1\.weight"):
        VisionTower.from_pretrained(folder)
    wide = _build_vision_tower(16, {**CFG, "width": 64}).state_dict()
    folder = write_folder(tmp_path / "b", {"vision_cfg": CFG}, wide)
    with pytest.raises(WingsError, match="in another shape"):
        VisionTower.from_pretrained(folder)
    (tmp_path / "b" / "open_clip_model.safetensors").unlink()
    with pytest.raises(WingsError, match="no weights file"):
        VisionTower.from_pretrained(folder)
    (tmp_path / "b" / "open_clip_model.safetensors").write_bytes(b"torn")
    with pytest.raises(WingsError, match="cannot be read"):
        VisionTower.from_pretrained(folder)
    (tmp_path / "b" / "open_clip_config.json").write_text("{")
    with pytest.raises(WingsError, match=r"no readable open_clip_config\.json"):
        VisionTower.from_pretrained(folder)


def test_names():
    assert canonical_config("ViT-B/32/openai") == canonical_config("ViT-B-32/openai")
    assert canonical_config("ViT-B-32/openai")["quick_gelu"] is True
    assert canonical_config("ViT-B-32/laion2b_s34b_b79k")["quick_gelu"] is False
    siglip = canonical_config("ViT-B-16-SigLIP/webli")
    assert siglip["image_mean"] == [0.5] * 3 and siglip["resize_mode"] == "pad"
    assert canonical_config("ViT-B-16-SigLIP")["image_mean"] == [0.5] * 3
    dino = canonical_config({"vision_cfg": {"timm_model_name": "vit_small_patch14_dinov2"}})
    assert dino["image_mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert dino["image_size"] == 224, "open_clip's default, not timm's 518"
    clip = canonical_config(NATIVE)
    assert clip["image_mean"] == list(open_clip.OPENAI_DATASET_MEAN)


def test_a_name_without_weights_warns(monkeypatch):
    monkeypatch.setitem(
        open_clip.factory._MODEL_CONFIGS,
        "tiny",
        {"vision_cfg": CFG, "text_cfg": {}},
    )
    with pytest.warns(UserWarning, match="the vision tower is random"):
        tower = VisionTower.from_pretrained("tiny")
    assert tower.hidden_size == 32


@pytest.mark.parametrize(
    ("vision", "says"),
    [
        ({}, "exactly one of"),
        ({"model_name": "ViT-B-32", "vision_cfg": CFG}, "exactly one of"),
        ({**NATIVE, "selct_layer": -1}, "did you mean 'select_layer'"),
        ({"vision_cfg": {**CFG, "patchsize": 14}}, "did you mean 'patch_size'"),
        ({**NATIVE, "select_layer": -4}, "'select_layer' is -4, which is no layer"),
        ({**NATIVE, "select_layer": 3}, "'select_layer' is 3, which is no layer"),
        ({**NATIVE, "select_layer": "last"}, "'select_layer' of the vision config is 'last'"),
        ({**NATIVE, "pool": 3}, "'pool' of the vision config is 3"),
        ({**NATIVE, "image_size": 0}, "'image_size' of the vision config is 0"),
        ({**NATIVE, "image_size": "big"}, "'image_size' of the vision config is 'big'"),
        ({**NATIVE, "image_mean": [0.5]}, "'image_mean' of the vision config is"),
        ({**NATIVE, "image_std": [0.5, 0, 0.5]}, "'image_std' of the vision config is"),
        ({**NATIVE, "interpolation": "random"}, "'interpolation' of the vision config is 'random'"),
        ({**NATIVE, "resize_mode": "crop"}, "'resize_mode' of the vision config is 'crop'"),
        ({"vision_cfg": {"timm_model_name": "test_vitt"}}, "did you mean 'test_vit"),
        ({"vision_cfg": {**CFG, "width": 33}}, "No vision tower can be built"),
        ("ViT-B-33", "did you mean 'ViT-B-32"),
        ("ViT-B-32/openay", "did you mean 'openai'"),
        ("RN50", "no patch tokens"),
        ("local-dir:/nowhere", "no readable open_clip_config"),
        ("local-dir:", "without a name"),
        ("", "without a name|has no model ''"),
    ],
)
def test_bad_configs_get_a_sentence(vision, says):
    with pytest.raises(WingsError, match=says):
        VisionTower(vision if isinstance(vision, dict) else {"model_name": vision})


@pytest.mark.parametrize("shape", [(3, 28, 28), (1, 3, 14, 28), (1, 3, 42, 42), (2, 1, 28, 28)])
def test_other_pixels_are_refused(shape):
    with pytest.raises(WingsError, match="'pixel_values' are"):
        VisionTower(NATIVE)(torch.zeros(shape))
