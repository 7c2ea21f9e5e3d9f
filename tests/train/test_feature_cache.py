"""Features of frozen encoders in a folder: the same run, and each item encoded once."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from audio_models import save_tiny_audio
from safetensors.torch import load_file
from tiny import VISION, tiny_model

from wings.encoders.audio_encoder import AudioEncoder
from wings.encoders.open_clip_tower import VisionTower
from wings.errors import WingsError
from wings.train import feature_cache as file
from wings.train.feature_cache import FeatureCache, cached_features
from wings.train.preflight import preflight
from wings.train.run import train


def tower():
    """Always with the same random weights."""
    return tiny_model()[0].model.vision_tower


def draw(encoder, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *encoder.item_shape, generator=generator)


def files(folder):
    return [path for path in Path(folder).rglob("*") if path.is_file()]


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


@pytest.fixture
def audio(tmp_path):
    save_tiny_audio("whisper", tmp_path / "audio")
    return AudioEncoder.from_pretrained({"model_name": str(tmp_path / "audio"), "seconds": 1.0})


@pytest.mark.parametrize("sense", ["image", "audio"])
def test_any_batches_give_the_features_of_each_item_and_encode_it_once(sense, tmp_path, request):
    encoder = tower() if sense == "image" else request.getfixturevalue("audio")
    values = draw(encoder, 7)
    expected, cache = encoder(values), FeatureCache(encoder, tmp_path / "cache")
    for places in ([0, 1, 2], [2, 2, 3], [6, 0, 6, 5, 4], [], [1]):
        found = cache(values[places])
        assert found.dtype == expected.dtype and not found.requires_grad
        torch.testing.assert_close(found, expected[places])
    assert cache.computed == 7 == len(files(tmp_path / "cache")) and cache.read == 5
    again = FeatureCache(encoder, tmp_path / "cache")
    torch.testing.assert_close(again(values), expected)
    assert again.computed == 0


@pytest.mark.parametrize("pool", [1, 2])
def test_features_have_the_memory_layout_of_the_encoders(pool, tmp_path):
    sizes = {**VISION["vision_cfg"], "image_size": 56}
    encoder = VisionTower({"vision_cfg": sizes, "pool": pool})
    values = draw(encoder, 3)
    expected = encoder(values)
    for _ in range(2):
        found = FeatureCache(encoder, tmp_path)(values)
        assert torch.equal(found, expected) and found.stride() == expected.stride()


def test_other_pixels_weights_configurations_and_dtypes_are_others(tmp_path):
    encoder, values = tower(), draw(tower(), 2)
    FeatureCache(encoder, tmp_path)(values)

    def computed(encoder, values):
        cache = FeatureCache(encoder, tmp_path)
        torch.testing.assert_close(cache(values), encoder(values))
        return cache.computed

    nudged = values.clone()
    nudged[1, 0, 0, 0] += 1e-6
    assert computed(encoder, nudged) == 1
    other = tower()
    other.visual.conv1.weight[0, 0, 0, 0] += 1e-4
    assert computed(other, values) == 2
    assert computed(tower().to(torch.bfloat16), values) == 2
    with torch.autocast("cpu", torch.bfloat16):
        assert computed(encoder, values) == 2
    assert computed(encoder, values) == 0
    encoder.config = {**encoder.config, "pool": 1 + encoder.config["pool"]}
    assert FeatureCache(encoder, tmp_path).folder != FeatureCache(tower(), tmp_path).folder


def test_other_releases_and_weights_loaded_later_are_others(tmp_path, monkeypatch):
    encoder, values = tower(), draw(tower(), 1)
    cache = FeatureCache(encoder, tmp_path)
    # As a resume does, between the start of a run and its first step.
    encoder.visual.conv1.weight.data += 0.1
    cache(values)
    assert cache.folder == FeatureCache(encoder, tmp_path).folder
    assert cache.folder != FeatureCache(tower(), tmp_path).folder
    monkeypatch.setattr(file, "releases_of", lambda _: {"timm": "another"})
    assert cache.folder != FeatureCache(encoder, tmp_path).folder


def test_what_is_not_finite_is_not_kept(tmp_path):
    encoder, values = tower(), draw(tower(), 3)
    values[1] = float("nan")
    cache = FeatureCache(encoder, tmp_path)
    assert cache(values)[1].isnan().any() and len(files(tmp_path)) == 2


@pytest.mark.parametrize("content", [b"", b"{}", None])
def test_a_file_that_a_crash_cut_off_is_computed_again(content, tmp_path):
    encoder, values = tower(), draw(tower(), 3)
    expected = FeatureCache(encoder, tmp_path)(values)
    damaged = sorted(files(tmp_path))[0]
    damaged.write_bytes(damaged.read_bytes()[:-7] if content is None else content)
    cache = FeatureCache(encoder, tmp_path)
    torch.testing.assert_close(cache(values), expected)
    assert cache.computed == 1 and FeatureCache(encoder, tmp_path)(values).shape == expected.shape
    assert len(files(tmp_path)) == 3


def test_a_full_disk_is_said_once_and_the_run_goes_on(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(file, "save_file", full)
    monkeypatch.setattr(Path, "unlink", read_only)
    encoder, values = tower(), draw(tower(), 3)
    cache = FeatureCache(encoder, tmp_path)
    with pytest.warns(
        UserWarning, match=r"cannot be written .*No space left.* run goes on"
    ) as said:
        for _ in range(2):
            torch.testing.assert_close(cache(values), encoder(values))
    assert len(said) == 1 and cache.computed == 6 and not files(tmp_path)


def test_the_encoders_are_as_before_after_an_error(tmp_path):
    model, _ = tiny_model()
    encoder = model.model.vision_tower
    with pytest.raises(KeyError), cached_features(model, str(tmp_path)):
        raise KeyError
    assert "forward" not in vars(encoder)
    # As a hook of big models does.
    encoder.forward = hooked = encoder.forward
    with cached_features(model, str(tmp_path)):
        encoder(draw(encoder, 1))
    assert vars(encoder)["forward"] is hooked and files(tmp_path)


def test_a_run_is_the_same_and_a_second_stage_encodes_nothing(make_recipe, tmp_path, capsys):
    # 24 records in six steps of four: each picture twice.
    options = {"steps": 12, "output": str(tmp_path / "plain")}
    plain = make_recipe("align", **options)
    train(plain)
    cached = replace(plain, output=str(tmp_path / "run"), feature_cache=str(tmp_path / "cache"))
    capsys.readouterr()
    train(cached)
    pictures = len(files(tmp_path / "cache"))
    assert 0 < pictures <= 16 and f"{pictures} computed" in capsys.readouterr().out
    expected, found = weights(plain.output), weights(cached.output)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    second = make_recipe(
        "instruct", start=cached.output, output=str(tmp_path / "two"), steps=6,
        feature_cache=cached.feature_cache,
    )  # fmt: skip
    train(second)
    assert len(files(tmp_path / "cache")) == pictures
    assert " 0 computed" in capsys.readouterr().out


def test_a_run_that_was_broken_off_ends_in_the_same_weights(make_recipe, tmp_path):
    """Features that were written after the checkpoint are read where they were computed."""
    options = {"steps": 8, "save_every": 3}
    whole = make_recipe("align", output=str(tmp_path / "whole"), **options)
    whole = replace(whole, feature_cache=str(tmp_path / "one"))
    train(whole)
    broken = replace(whole, output=str(tmp_path / "run"), feature_cache=str(tmp_path / "two"))

    def stop(step, *_):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(broken, watch=stop)
    written = len(files(tmp_path / "two"))
    train(broken)
    expected, found = weights(whole.output), weights(broken.output)
    assert 0 < written < len(files(tmp_path / "two")) == len(files(tmp_path / "one"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_two_processes_share_a_folder(make_recipe, in_two, tmp_path):
    recipe = make_recipe("align", steps=8, feature_cache=str(tmp_path / "cache"))
    in_two(recipe, replace(recipe, output=str(tmp_path / "plain"), feature_cache=None))
    for name, tensor in weights(tmp_path / "plain").items():
        found = weights(recipe.output)[name]
        torch.testing.assert_close(found, tensor, rtol=1e-4, atol=1e-5, msg=name)
    assert files(tmp_path / "cache") and not [*tmp_path.rglob("*.draft")]


def test_the_preflight_writes_no_features(make_recipe, tmp_path):
    preflight(make_recipe("align", feature_cache=str(tmp_path / "cache")))
    assert not files(tmp_path / "cache")


def test_folders_that_are_refused_before_any_work(make_recipe, tmp_path):
    for name in ("run", "run/features"):
        with pytest.raises(WingsError, match=r"feature_cache: .* is in output"):
            make_recipe("align", feature_cache=str(tmp_path / name))
    with pytest.raises(WingsError, match="feature_cache: fsdp gathers"):
        make_recipe("align", feature_cache="cache", parallel="fsdp")
    (tmp_path / "taken").write_text("")
    with pytest.raises(WingsError, match=r"feature_cache: .*taken cannot be made .*name another"):
        train(make_recipe("align", feature_cache=str(tmp_path / "taken")))
    assert not (tmp_path / "run").exists()
