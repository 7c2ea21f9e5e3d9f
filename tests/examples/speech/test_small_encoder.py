"""The small encoder: words of tones told apart in new voices, and a folder that loads."""

import random

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModel

from wings.encoders.audio_encoder import AudioEncoder
from wings.examples.speech import small_encoder
from wings.examples.speech.small_encoder import HOP, POSITIONS, Take, stretch, train_encoder
from wings.examples.speech.sound import Sound, Utterance
from wings.examples.speech.tones import Tones

WORDS = ("cat", "dog", "sun", "moon", "tree")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder, losses = tmp_path_factory.mktemp("encoder"), []
    accuracy = train_encoder(folder, Tones(), 0, 70, losses.append, WORDS, stretches=200)
    return folder, losses, accuracy


def test_words_are_recognised_in_voices_that_it_was_not_trained_on(trained):
    _, losses, accuracy = trained
    assert len(losses) == 70 and losses[-1] < losses[0] / 2
    # One in five by chance; a word is rarely missed.
    assert accuracy > 0.8


def test_the_folder_loads_without_a_tensor_that_is_missing(trained):
    folder, _, _ = trained
    model, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    extract = AutoFeatureExtractor.from_pretrained(folder)
    (sound,) = Tones().say_all([Utterance("sun", "instrument-20")])
    inputs = extract(sound.samples, sampling_rate=16000, return_tensors="pt").input_features
    assert torch.equal(
        inputs[0],
        small_encoder.log_mel([sound.samples, np.zeros(32000, np.float32)])[0],
    )
    encoder = AudioEncoder.from_pretrained({"model_name": str(folder), "pool": 1})
    assert encoder.item_shape == tuple(inputs.shape[1:])
    with torch.inference_mode():
        features = encoder(inputs)
        assert features.shape == (1, POSITIONS, 64)
        assert torch.allclose(features, model.encoder(inputs).last_hidden_state, atol=1e-5)


def test_labels_are_at_the_positions_of_the_words():
    # A recording without a sample of zero, so that speech and silence are told apart exactly.
    take = Take(4, Sound(np.full(10000, 0.5, np.float32), 16000))
    samples, labels = stretch([take, take], random.Random(0))
    assert samples.shape == (32000,) and labels.shape == (POSITIONS,)
    assert set(labels) == {0, 5} and (labels == 5).sum() in range(30, 34)
    loud = np.abs(samples).reshape(POSITIONS, 2 * HOP).mean(1) > 0.25
    assert np.abs(loud.astype(int) - (labels == 5)).sum() <= 4
