"""The audio processor: clips become stretches, each as the encoder takes it."""

import io

import numpy as np
import pytest
import soundfile
import torch
from audio_models import tiny_audio

from wings.encoders.audio_encoder import AudioEncoder
from wings.errors import WingsError
from wings.processing.audio_limits import AudioLimits
from wings.processing.audio_processor import WingsAudioProcessor

RATE = 16000


def noise(seconds, seed=0):
    return np.random.default_rng(seed).standard_normal(round(seconds * RATE)).astype("f4") / 10


@pytest.fixture(scope="module")
def encoder():
    return AudioEncoder(tiny_audio("whisper"))


@pytest.fixture(scope="module")
def processor(encoder):
    return WingsAudioProcessor.from_audio_config(encoder.config, max_stretches=5)


def test_a_clip_is_cut_into_stretches_that_the_encoder_takes(encoder, processor):
    for seconds, count in ((0.05, 1), (1.0, 1), (1.01, 2), (2.5, 3), (5.0, 5)):
        (values,) = processor((noise(seconds), RATE))
        assert values.shape == (count, *encoder.item_shape) and values.dtype == torch.float32
        assert values.is_contiguous() and values.isfinite().all()
    assert encoder(values).shape == (5, encoder.seq_length, encoder.hidden_size)


def test_every_stretch_is_as_if_it_were_alone(processor):
    clip = noise(2.5)
    (whole,) = processor((clip, RATE))
    for number in range(3):
        (alone,) = processor((clip[number * RATE : (number + 1) * RATE], RATE))
        assert torch.equal(alone[0], whole[number])
    loud = [(noise(1.7, seed) * (seed + 1), RATE) for seed in range(3)]
    together = processor([loud[0], [loud[1], (clip, RATE)], loud[2]])
    for values, source in zip(together, [loud[0], loud[1], (clip, RATE), loud[2]], strict=True):
        assert torch.equal(values, processor(source)[0])
    assert processor([]) == processor(None) == []


def test_silence_is_a_sound(encoder, processor):
    (values,) = processor((np.zeros(RATE), RATE))
    assert values.isfinite().all() and encoder(values).isfinite().all()


def test_settings_are_saved(processor, encoder, tmp_path):
    fields = processor.to_dict()
    again = WingsAudioProcessor.from_dict(fields)
    assert again.to_dict() == fields and fields["max_stretches"] == 5
    processor.save_pretrained(tmp_path)
    loaded = WingsAudioProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == fields and loaded.limits == AudioLimits()
    clip = (noise(1.5), RATE)
    for other in (again, loaded):
        assert torch.equal(other(clip)[0], processor(clip)[0])
    assert WingsAudioProcessor.from_audio_config(encoder.config).max_stretches == 64


def test_a_clip_that_is_too_long_is_named(processor):
    with pytest.raises(WingsError) as error:
        processor([(noise(1), RATE), (noise(5.5), RATE)])
    assert str(error.value) == (
        "Sound array float32 [88000]: It lasts 5.5 seconds, which are 6 stretches of 1 s, "
        "more than max_stretches allows, 5."
    )
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(601 * 8000, "i2"), 8000, format="FLAC")
    with pytest.raises(WingsError, match=r"^Sound of .* longer than audio_seconds allows, 600\.$"):
        processor(buffer.getvalue())
    with pytest.raises(WingsError, match=r"^Sound 'none\.wav' does not exist"):
        processor([(noise(1), RATE), "none.wav"])


def test_settings_that_no_encoder_has_are_refused(encoder):
    for count in (0, 1.5, None):
        with pytest.raises(WingsError, match=f"'max_stretches' is {count}"):
            WingsAudioProcessor.from_audio_config(encoder.config, max_stretches=count)
    config = encoder.config | {"item_shape": [8, 101]}
    with pytest.raises(WingsError, match=r"'item_shape' is \[8, 101\]"):
        WingsAudioProcessor.from_audio_config(config)
