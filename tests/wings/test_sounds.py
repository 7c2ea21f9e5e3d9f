"""Sounds: whatever holds one, the same samples come out, and what holds none is named."""

import base64
import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from wings.errors import WingsError
from wings.processing.audio_limits import AudioLimits
from wings.processing.audio_reader import MissingAudio, load_audio

RATE = 16000


def tone(seconds=0.5, rate=RATE, hertz=440.0):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype("f4")


def file_of(samples, kind="WAV", rate=RATE, **options):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, **options)
    return buffer.getvalue()


def loudness_at(samples, hertz, rate=RATE):
    """The amplitude of one frequency."""
    wave = np.exp(-2j * np.pi * hertz * np.arange(len(samples)) / rate)
    return 2 * abs((samples * wave).mean())


def test_every_source_gives_the_same_samples(tmp_path):
    # As 16 bits hold them exactly.
    samples = np.round(tone() * 2**15).astype("f4") / 2**15
    data = file_of(samples)
    path = tmp_path / "a b.wav"
    path.write_bytes(data)
    decoder = SimpleNamespace(
        get_all_samples=lambda: SimpleNamespace(
            data=torch.from_numpy(samples)[None], sample_rate=RATE
        )
    )
    sources = [
        path, str(path), data, bytearray(data), memoryview(data),
        f"data:audio/wav;base64,{base64.b64encode(data).decode()}",
        {"bytes": data, "path": None}, {"bytes": None, "path": str(path)},
        {"array": samples, "sampling_rate": RATE}, {"array": list(samples), "sampling_rate": RATE},
        (samples, RATE), (samples.astype("f8"), float(RATE)), (torch.from_numpy(samples), RATE),
        (samples[None], RATE), (samples[:, None], RATE), (torch.from_numpy(samples)[None], RATE),
        ((samples * 2**15).astype("i2"), RATE), ((samples * 2.0**31).astype("i4"), RATE),
        decoder,
    ]  # fmt: skip
    for number, source in enumerate(sources):
        got = load_audio(source, RATE)
        assert got.dtype == np.float32 and got.flags["C_CONTIGUOUS"], number
        assert np.array_equal(got, samples), number


def test_a_column_of_datasets_is_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "a.flac"
    path.write_bytes(file_of(tone(), "FLAC"))
    column = datasets.Dataset.from_dict({"audio": [str(path)]})
    row = column.cast_column("audio", datasets.Audio(decode=False))[0]["audio"]
    assert np.abs(load_audio(row, RATE) - tone()).max() < 1e-4


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_formats_rates_and_channels(kind):
    left, right = tone(rate=44100, hertz=440.0), tone(rate=44100, hertz=1000.0)
    data = file_of(np.stack([left, right], 1), kind, 44100)
    got = load_audio(data, RATE)
    # An mp3 coder adds some silence at both ends.
    assert len(got) == pytest.approx(RATE / 2, abs=1 if kind != "MP3" else 1500)
    got = got[1000:-1000]
    for hertz, amplitude in ((440.0, 0.25), (1000.0, 0.25), (2000.0, 0.0)):
        assert loudness_at(got, hertz) == pytest.approx(amplitude, abs=0.02), hertz


def test_resampling_keeps_the_pitch_and_drops_what_the_new_rate_cannot_hold():
    for rate in (8000, 22050, 48000, 192000):
        got = load_audio((tone(rate=rate), rate), RATE)
        assert len(got) == pytest.approx(RATE / 2, abs=1)
        assert loudness_at(got[500:-500], 440.0) == pytest.approx(0.5, abs=0.01)
    high = load_audio((tone(rate=48000, hertz=11000.0), 48000), RATE)
    assert np.abs(high[500:-500]).max() < 0.01


def test_short_silent_and_uneven_sounds():
    assert len(load_audio((tone(0.05), RATE), RATE)) == 800
    assert not load_audio(file_of(np.zeros(900)), RATE).any()
    assert not load_audio((np.full(900, 128, np.uint8), RATE), RATE).any()
    stereo = np.stack([tone(), np.zeros(8000, "f4")])
    for source in (stereo, stereo.T, torch.from_numpy(stereo)):
        assert np.array_equal(load_audio((source, RATE), RATE), tone() / 2)
    assert load_audio((np.array([-(2**15), 0], "i2"), RATE), RATE)[0] == -1


def test_files_that_were_streamed_have_no_length_in_their_header():
    data = bytearray(file_of(tone()))
    data[40:44] = b"\xff\xff\xff\xff"
    assert len(load_audio(bytes(data), RATE)) == 8000


BROKEN = {
    "empty": (b"", "is not a whole, readable sound"),
    "text": (b"This is a text and no sound.\n" * 20, "Format not recognised"),
    "image": (b"\x89PNG\r\n\x1a\n" + bytes(500), "give a wav, flac, ogg or mp3 file"),
    "zeros": (bytes(5000), "is not a whole, readable sound"),
    "no samples": (file_of(np.zeros(0)), "no samples"),
    "not a number": (file_of(np.array([0, np.nan]), subtype="FLOAT"), "NaN"),
    "damaged": (file_of(tone(), "FLAC")[:2000] + bytes(3000), "readable"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named(name, tmp_path):
    data, reason = BROKEN[name]
    path = tmp_path / f"{name}.wav"
    path.write_bytes(data)
    for source, said in ((path, repr(str(path))), (data, f"Sound of {len(data)} bytes")):
        with pytest.raises(WingsError) as error:
            load_audio(source, RATE)
        text = str(error.value)
        assert said in text and reason in text and text.endswith("."), text
        assert "BytesIO" not in text and "\n" not in text


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_file_that_is_cut_off_is_refused(kind):
    data = file_of(tone(2.0), kind)
    for part in (0.6, 0.01):
        with pytest.raises(WingsError, match="is not a whole, readable sound"):
            load_audio(data[: int(part * len(data))], RATE)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ((tone(), 0), "rate is 0"),
        ((tone(), None), "rate is None"),
        ((tone(), 16000.5), "16000.5"),
        ((tone(), float("nan")), "nan"),
        ({"array": tone()}, "rate is None"),
        ({"path": None}, "needs 'array'"),
        ((np.array([0.1, np.inf]), RATE), "infinite"),
        ((np.array([]), RATE), "no samples"),
        ((np.zeros((2, 0)), RATE), "no samples"),
        ((tone() * 2**15, RATE), "within -1..1"),
        ((np.arange(5), RATE), "range is unknown"),
        ((np.zeros((2, 2, 2)), RATE), "one or two axes"),
        ((np.zeros((500, 400)), RATE), "400 channels"),
        ((np.zeros(1), 768000), "shorter than one sample"),
        (tone(), "Sound array float32 [8000] is not a sound"),
        (7, "int 7 is not a sound"),
        (None, "is not a sound"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_holds_no_sound_is_refused(source, reason):
    with pytest.raises(WingsError) as error:
        load_audio(source, RATE)
    text = str(error.value)
    assert reason in text and text.endswith(".") and "\n" not in text and len(text) < 400, text


def test_places_that_hold_no_file(tmp_path):
    with pytest.raises(MissingAudio, match=r"'.*none\.wav' does not exist\."):
        load_audio(tmp_path / "none.wav", RATE)
    with pytest.raises(WingsError, match="Sound '"):
        load_audio(tmp_path, RATE)
    with pytest.raises(WingsError, match=r"'http://127.0.0.1:9/a.wav': .* private network"):
        load_audio("http://127.0.0.1:9/a.wav", RATE)


def test_limits_are_named_and_hold_before_the_work():
    data = file_of(np.zeros(RATE * 3600, "i2"), "FLAC")
    with pytest.raises(WingsError, match=r"lasts 3,600\.0 seconds, longer than audio_seconds"):
        load_audio(data, RATE)
    with pytest.raises(WingsError, match=r"audio_seconds allows, 0\.1"):
        load_audio((tone(), RATE), RATE, AudioLimits(audio_seconds=0.1))
    for source in (data, f"data:;base64,{base64.b64encode(data).decode()}"):
        with pytest.raises(WingsError, match="more than audio_bytes allows, 99"):
            load_audio(source, RATE, AudioLimits(audio_bytes=99))


@pytest.mark.parametrize("package", ["soundfile", "soxr"])
def test_a_missing_package_is_one_sentence(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(WingsError, match=rf'^{package} is not .* "wings-lorra\[audio\]"\.$'):
        load_audio((tone(), RATE), RATE)
