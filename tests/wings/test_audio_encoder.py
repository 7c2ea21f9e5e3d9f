"""Audio encoders: what transformers has for sounds gives features of a stretch, by a trial."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from audio_models import MODELS, save_tiny_audio, tiny_audio
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModel, BertConfig, EncodecConfig, EncodecFeatureExtractor

from wings.encoders.audio_config import canonical_audio_config
from wings.encoders.audio_encoder import AudioEncoder
from wings.encoders.encoder_trial import FeatureGrid, arrange
from wings.encoders.stretch_values import StretchValues
from wings.errors import WingsError

# Features of a second after averaging four neighbours, and the shape of the values.
SIZES = {
    "whisper": (13, (8, 100)),
    "wav2vec2": (13, (16000,)),
    "wav2vec2-large": (13, (16000,)),
    "hubert": (13, (16000,)),
    "clap": (64, (1, 201, 16)),
    "clap-fused": (64, (4, 201, 16)),
    "ast": (24, (98, 16)),
}


def noise(samples, seed=0):
    return np.random.default_rng(seed).standard_normal(samples).astype("f4") / 10


def maker_of(encoder):
    config = encoder.config
    return StretchValues(config["feature_extractor"], config["seconds"], encoder.item_shape)


def values_of(encoder, count=2):
    maker = maker_of(encoder)
    return torch.from_numpy(np.stack([maker(noise(maker.samples, n)) for n in range(count)]))


def averaged(features, pool):
    """Means of `pool` neighbours, [N, P, d] -> [N, P / pool, d]; the last may have fewer."""
    return torch.stack([part.mean(1) for part in features.split(pool, 1)], 1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folder of each tiny model, and the model."""
    made = {}
    for name in MODELS:
        folder = tmp_path_factory.mktemp(name)
        made[name] = str(folder), save_tiny_audio(name, folder)
    return made


@pytest.fixture(scope="module")
def encoders(folders):
    """The encoder of each folder, for stretches of one second."""
    return {
        name: AudioEncoder.from_pretrained({"model_name": folder, "seconds": 1.0})
        for name, (folder, _) in folders.items()
    }


@pytest.mark.parametrize("name", MODELS)
def test_every_family_gives_features_of_a_stretch(name, encoders):
    encoder = encoders[name]
    count, shape = SIZES[name]
    assert (encoder.seq_length, encoder.hidden_size, encoder.item_shape) == (count, 16, shape)
    encoder.train()
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())
    values = values_of(encoder)
    features = encoder(values)
    assert features.shape == (2, count, 16) and features.dtype == torch.float32
    assert features.isfinite().all()
    assert not torch.allclose(features[0], features[1], atol=1e-3)
    assert torch.allclose(encoder(values[1:]), features[1:], atol=1e-5)
    assert encoder(values[:0]).shape == (0, count, 16)
    small = AudioEncoder(encoder.config).to(torch.bfloat16)
    small.load_state_dict(encoder.state_dict())
    assert small.dtype == torch.bfloat16 and small(values[:0]).dtype == torch.bfloat16
    # Rounding to 8 bits in all layers turns the features by a small angle.
    cosine = nn.functional.cosine_similarity(small(values).float(), features, dim=-1)
    assert cosine.mean() > 0.98


@pytest.mark.parametrize("name", ["whisper", "wav2vec2", "hubert", "clap-fused", "ast"])
def test_the_config_rebuilds_the_encoder(name, encoders, folders):
    encoder, values = encoders[name], values_of(encoders[name])
    config = json.loads(json.dumps(encoder.config))
    assert config == encoder.config == canonical_audio_config(config)
    assert config["type"] == "transformers" and config["item_shape"] == list(encoder.item_shape)
    again = AudioEncoder.from_weights(config, folders[name][0])
    assert again.config == config and torch.equal(again(values), encoder(values))
    # As a checkpoint is read: built without weights, filled, then what no file has is computed.
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            empty = AudioEncoder(config)
    finally:
        torch.set_default_dtype(before)
    assert empty.dtype == torch.bfloat16
    assert all(weight.is_meta for weight in empty.parameters() if weight.ndim > 1)
    filled = empty.float().to_empty(device="cpu")
    filled.load_state_dict(encoder.state_dict())
    filled.reset_buffers()
    assert torch.equal(filled(values), encoder(values))


def test_buffers_that_no_file_holds_are_computed_anew(encoders):
    encoder = AudioEncoder(encoders["whisper"].config)
    encoder.encoder.register_buffer("table", torch.zeros(3), persistent=False)
    other = encoders["whisper"]
    with pytest.MonkeyPatch.context() as patch:
        table = torch.arange(3.0)
        patch.setattr("wings.encoders.audio_encoder.AudioEncoder", lambda config: with_table(table))
        encoder.reset_buffers()
    assert torch.equal(encoder.encoder.table, table)
    assert "encoder.table" not in encoder.state_dict() and not dict(other.named_buffers())


def with_table(table):
    holder = nn.Module()
    holder.encoder = nn.Module()
    holder.encoder.register_buffer("table", table, persistent=False)
    return holder


def test_waves_are_those_of_the_model_itself(encoders, folders):
    for name in ("wav2vec2", "wav2vec2-large", "hubert"):
        encoder, (_, model) = encoders[name], folders[name]
        values = values_of(encoder)
        sound = torch.from_numpy(np.stack([noise(16000, 0), noise(16000, 1)]))
        scaled = (sound - sound.mean(1, True)) / (sound.var(1, keepdim=True, correction=0)).sqrt()
        assert torch.allclose(values, scaled, atol=1e-4)
        with torch.no_grad():
            outputs = model(values, output_hidden_states=True)
        assert torch.allclose(encoder(values), averaged(outputs.last_hidden_state, 4), atol=1e-5)
        inner = AudioEncoder(encoder.config | {"select_layer": 1, "pool": 1})
        inner.load_state_dict(encoder.state_dict())
        assert torch.allclose(inner(values), outputs.hidden_states[1], atol=1e-5)
        assert inner.seq_length == 49


@pytest.mark.parametrize("seconds", [4, 1.0, 0.37])
def test_positions_are_cut_to_the_stretch(seconds, folders):
    folder, model = folders["whisper"]
    encoder = AudioEncoder.from_pretrained({"model_name": folder, "seconds": seconds, "pool": 3})
    values = values_of(encoder)
    count = math.floor(seconds * 50)
    assert values.shape == (2, 8, 2 * count) and encoder.seq_length == math.ceil(count / 3)
    assert encoder.config["model_config"].get("max_source_positions", 1500) == count
    # By hand: the encoder's own layers on the first positions.
    own = model.get_encoder()
    with torch.no_grad():
        hidden = nn.functional.gelu(own.conv2(nn.functional.gelu(own.conv1(values))))
        hidden = hidden.transpose(1, 2) + own.embed_positions.weight[:count]
        for layer in own.layers:
            hidden = layer(hidden, None)
        hidden = own.layer_norm(hidden)
    assert torch.allclose(encoder(values), averaged(hidden, 3), atol=1e-5)


def test_positions_of_a_grid_are_cut_in_time(encoders, folders):
    model, encoder = folders["ast"][1], encoders["ast"]
    values = values_of(encoder)
    short = AutoModel.from_config(AutoConfig.for_model(**encoder.config["model_config"])).eval()
    state = dict(model.state_dict())
    places = state["embeddings.position_embeddings"]
    grid = places[:, 2:].unflatten(1, (4, 100))[:, :, :24]
    state["embeddings.position_embeddings"] = torch.cat([places[:, :2], grid.flatten(1, 2)], 1)
    short.load_state_dict(state)
    with torch.no_grad():
        patches = short(values).last_hidden_state[:, 2:]
    # Frequency by frequency; then all frequencies of a time together.
    patches = patches.unflatten(1, (4, 24)).flatten(0, 1)
    wanted = averaged(patches, 4).unflatten(0, (2, 4)).transpose(1, 2).flatten(1, 2)
    assert torch.allclose(encoder(values), wanted, atol=1e-5)


def test_a_grid_may_begin_with_time():
    # Two times of three frequencies, after a token that is no feature.
    grid = FeatureGrid(prefix=1, rows=2, columns=3, is_time_last=False)
    assert grid.indices(100).tolist() == list(range(7))
    features = torch.arange(7.0)[None, :, None]
    assert arrange(features, grid, 1).flatten().tolist() == [1, 2, 3, 4, 5, 6]
    assert arrange(features, grid, 2).flatten().tolist() == [2.5, 3.5, 4.5]
    turned = FeatureGrid(prefix=1, rows=3, columns=2)
    assert turned.indices(1 + 3 * 5).tolist() == [0, 1, 2, 6, 7, 11, 12]
    assert turned.indices(1 + 3 * 5 + 1) is None
    assert arrange(features, turned, 1).flatten().tolist() == [1, 3, 5, 2, 4, 6]


def test_maps_are_read_time_by_time(encoders, folders):
    for name in ("clap", "clap-fused"):
        encoder, model = encoders[name], folders[name][1]
        values = values_of(encoder)
        with torch.no_grad():
            found = model.audio_model(values, is_longer=torch.zeros(2, 1, dtype=torch.bool))
        maps = found.last_hidden_state
        frequencies, times = maps.shape[2:]
        assert times > frequencies > 1
        wanted = averaged(maps.permute(0, 3, 2, 1), 4).flatten(1, 2)
        assert torch.allclose(encoder(values), wanted, atol=1e-5)


def test_short_stretches_are_padded_as_the_extractor_pads(encoders):
    half = noise(8000)
    waves = maker_of(encoders["wav2vec2-large"])(half)
    scaled = (half - half.mean()) / half.std()
    assert np.allclose(waves[:8000], scaled, atol=1e-3) and not waves[8000:].any()
    spectrum = maker_of(encoders["whisper"])(half)
    assert spectrum.shape == (8, 100) and np.ptp(spectrum[:, 55:]) == 0
    maker = maker_of(encoders["clap"])
    sound = noise(maker.samples // 2)
    repeated = maker(np.tile(sound, 2))
    assert np.array_equal(maker(sound), repeated) and repeated[:, 150:].any()


def copy_without(folder, target, name):
    """Copies the folder of a model without one tensor."""
    shutil.copytree(folder, target)
    state = load_file(f"{folder}/model.safetensors")
    del state[name]
    save_file(state, target / "model.safetensors", {"format": "pt"})
    return str(target)


def test_weights_that_no_feature_needs_may_be_missing(folders, tmp_path):
    folder, _ = folders["wav2vec2"]
    spared = copy_without(folder, tmp_path / "spared", "masked_spec_embed")
    encoder = AudioEncoder.from_pretrained({"model_name": spared, "seconds": 0.5})
    assert encoder(values_of(encoder)).isfinite().all()
    assert not encoder.encoder.masked_spec_embed.any()
    needed = "feature_projection.projection.bias"
    lacking = copy_without(folder, tmp_path / "lacking", needed)
    with pytest.raises(WingsError, match=rf"lacks 1 of the \d+ tensors of .*, {needed} first"):
        AudioEncoder.from_pretrained(lacking)


def test_broken_or_foreign_weights_are_named(encoders, folders, tmp_path):
    folder = tmp_path / "cut"
    shutil.copytree(folders["hubert"][0], folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-99])
    with pytest.raises(WingsError, match=r"cut' is damaged: model\.safetensors"):
        AudioEncoder.from_pretrained(str(folder))
    config = encoders["hubert"].config
    with pytest.raises(WingsError, match="holds a WhisperModel and no HubertModel"):
        AudioEncoder.from_weights(config, folders["whisper"][0])
    wide = config | {"model_config": config["model_config"] | {"intermediate_size": 24}}
    with pytest.raises(WingsError, match=r"in another shape 6 of the .*\.layers\.0\..* first"):
        AudioEncoder.from_weights(wide, folders["hubert"][0])
    longer = tiny_audio("whisper")
    longer["model_config"]["max_source_positions"] = 400
    longer["feature_extractor"]["chunk_length"] = 8
    with pytest.raises(WingsError, match=r"another shape 1 of .*, embed_positions\.weight first"):
        AudioEncoder.from_weights(longer | {"seconds": 6.0}, folders["whisper"][0])


def test_stretches_of_another_shape_are_refused(encoders):
    encoder = encoders["whisper"]
    for shape in ((8, 100), (1, 100, 8), (1, 8, 99), ()):
        with pytest.raises(WingsError, match=r"takes \['N', 8, 100\]; prepare sounds"):
            encoder(torch.zeros(shape))


def other_model(config, extractor):
    return {"model_config": config.to_dict(), "feature_extractor": extractor}


def extractor_of(name, **changes):
    return tiny_audio(name)["feature_extractor"] | changes


BAD = {
    "no source": ({}, "exactly one of 'model_name' and 'model_config'"),
    "two sources": (tiny_audio("hubert", model_name="a/b"), "exactly one of"),
    "unknown key": (tiny_audio("hubert", secnods=1), "'secnods' (did you mean 'seconds'?)"),
    "unknown type": (tiny_audio("hubert", type="torch"), "'type' of the audio config is 'torch'"),
    "no extractor": (
        {"model_config": tiny_audio("hubert")["model_config"]}, "without 'feature_extractor'",
    ),
    "no seconds": (tiny_audio("hubert", seconds=0), "'seconds' of the audio config is 0"),
    "nan": (tiny_audio("hubert", seconds=math.nan), "is nan"),
    "text": (tiny_audio("hubert", seconds="2"), "is '2'"),
    "pool": (tiny_audio("hubert", pool=0), "'pool' of the audio config is 0"),
    "layer": (tiny_audio("hubert", select_layer=9), "another 'select_layer'"),
    "layer text": (tiny_audio("hubert", select_layer="a"), "'select_layer' of the audio config"),
    "layer of maps": (tiny_audio("clap-fused", select_layer=1), "not [N, features, width]"),
    "shape": (tiny_audio("hubert", item_shape=[7, 7]), "'item_shape' is [7, 7]; leave it out"),
    "shape text": (tiny_audio("hubert", item_shape=["a"]), "a list of sizes"),
    "no model": (tiny_audio("hubert", model_config={"model_type": "hubbub"}), "hubbub"),
    "no type": (tiny_audio("hubert", model_config={}), "none of a model of transformers"),
    "not a mapping": (tiny_audio("hubert", model_config=[]), "must be a mapping"),
    "text model": (
        other_model(BertConfig(vocab_size=8, hidden_size=8, num_attention_heads=1),
                    extractor_of("hubert")),
        "No part of the model 'bert'",
    ),
    "codec": (
        other_model(EncodecConfig(num_filters=2, num_lstm_layers=1, hidden_size=8, codebook_dim=8,
                                  codebook_size=8),
                    EncodecFeatureExtractor().to_dict()),
        "No part of the model 'encodec'",
    ),
    "no rate": (
        tiny_audio("hubert", feature_extractor=extractor_of("hubert", sampling_rate=None)),
        "has no sampling rate",
    ),
    "strange extractor": (
        tiny_audio("hubert", feature_extractor={"feature_extractor_type": "BertModel"}),
        "'BertModel', which is no feature extractor",
    ),
    "wrong extractor": (
        tiny_audio("hubert", feature_extractor=extractor_of("whisper")), "into features",
    ),
    "too long": (tiny_audio("whisper", seconds=5), "lower 'seconds'"),
    "drawn at random": (tiny_audio("clap", seconds=3), "lower 'seconds'"),
    "too short": (tiny_audio("hubert", seconds=0.001), "other 'seconds'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_audio_encoder_is_refused(name):
    config, reason = BAD[name]
    with pytest.raises(WingsError) as error:
        AudioEncoder(config)
    text = str(error.value)
    assert reason in text and text.endswith(".") and "\n" not in text, text


def test_places_that_hold_no_audio_encoder_are_named(folders, tmp_path):
    for source in (str(tmp_path / "none"), "whisper-base"):
        with pytest.raises(WingsError, match="There is no folder"):
            AudioEncoder.from_pretrained(source)
    shutil.copy(f"{folders['hubert'][0]}/config.json", tmp_path)
    with pytest.raises(WingsError, match=f"No audio encoder can be read .*'{tmp_path}'"):
        AudioEncoder.from_pretrained(str(tmp_path))
