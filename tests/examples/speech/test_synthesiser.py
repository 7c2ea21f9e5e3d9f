"""Speech: the same samples for the same request, whatever was said before, and errors by name."""

import importlib.util
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest

from wings.errors import WingsError
from wings.examples.speech import synthesiser as synthesisers
from wings.examples.speech.sound import Sound, Utterance
from wings.examples.speech.synthesiser import VOICES, Synthesiser, synthesiser
from wings.examples.speech.tones import CODE, Tones
from wings.processing.audio_reader import load_audio

SUM = Utterance("seven plus five", "en-us+f3")
needs_espeak = pytest.mark.skipif(synthesiser() is None, reason="needs eSpeak NG")


@pytest.fixture(scope="module")
def speaker():
    return synthesiser()


def same(a, b):
    return a.sampling_rate == b.sampling_rate and np.array_equal(a.samples, b.samples)


@needs_espeak
def test_samples_depend_on_nothing_that_was_said_before(speaker):
    others = [replace(SUM, voice=voice) for voice in ("en+f2", "en-gb-x-rp+belinda", "en-us+m8")]
    (alone,) = speaker.say_all([SUM])
    together = speaker.say_all([others[0], SUM, *others[1:], SUM])
    assert same(together[1], alone) and same(together[4], alone)
    assert alone.samples.dtype == np.float32 and 0.8 < alone.seconds < 1.6
    assert 0.3 < np.abs(alone.samples).max() <= 1
    assert not same(together[0], speaker.say_all([others[1]])[0])


@needs_espeak
def test_every_voice_of_every_part_is_another_one(speaker):
    names = [*VOICES.train, *VOICES.validation, *VOICES.test]
    sounds = speaker.say_all([Utterance("river", name) for name in names])
    assert len({sound.samples.tobytes() for sound in sounds}) == len(names)
    accents, variants = ([{v.split("+")[n] for v in part if n < len(v.split("+"))}
                          for part in (VOICES.train, VOICES.validation, VOICES.test)]
                         for n in (0, 1))  # fmt: skip
    assert not (variants[0] & variants[1] or variants[2] & (variants[0] | variants[1]))
    assert len(accents[2] - accents[0] - accents[1]) == 4


@needs_espeak
def test_rate_and_pitch_change_the_sound(speaker):
    slow, fast, high = speaker.say_all(
        [replace(SUM, rate=100), replace(SUM, rate=300), replace(SUM, pitch=90)]
    )
    assert slow.seconds > 2 * fast.seconds
    (plain,) = speaker.say_all([SUM])
    assert abs(high.seconds - plain.seconds) < 0.2 and not same(high, plain)


@needs_espeak
@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (replace(SUM, voice="nobody"), "cannot say"),
        # The library would take the accent's own voice.
        (replace(SUM, voice="en-us+nobody"), "cannot say"),
        (replace(SUM, text="..."), "makes no sound"),
        (replace(SUM, rate=10), "rate from 80 to 450"),
        (replace(SUM, pitch=100), "pitch from 0 to 99"),
    ],
)
def test_a_request_that_cannot_be_said_is_named(speaker, said, sentence):
    with pytest.raises(WingsError, match=sentence) as caught:
        speaker.say_all([SUM, said])
    assert repr(said) in str(caught.value)


def test_a_library_that_does_not_load_is_an_error_with_the_reason():
    with pytest.raises(WingsError, match=r"nowhere.so.*install espeakng-loader"):
        Synthesiser("/nowhere.so").say_all([SUM])


def test_without_a_library_there_is_no_synthesiser(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(synthesisers.ctypes.util, "find_library", lambda name: None)
    assert synthesiser() is None


def test_tones_are_the_same_every_time_and_differ_by_voice_and_letter():
    tones = Tones()
    said = Utterance("seven plus five", "instrument-3")
    a, b = (tones.say_all([said, replace(said, voice="instrument-4")]) for _ in range(2))
    assert same(a[0], b[0]) and not same(a[0], a[1])
    assert a[0].seconds == pytest.approx(15 * 0.06, abs=0.01)
    assert len(set(CODE.values())) == len(CODE) == 26
    sounds = [s.samples.tobytes() for s in tones.say_all([replace(said, text=x) for x in CODE])]
    assert len(set(sounds)) == 26


@pytest.mark.parametrize("voice", Tones.voices.test)
def test_the_pitches_of_a_letter_are_the_peaks_of_its_spectrum(voice):
    letter, steps = "q", CODE["q"]
    (sound,) = Tones().say_all([Utterance(letter * 20, voice, rate=80)])
    power = np.abs(np.fft.rfft(sound.samples)) ** 2
    hertz = np.fft.rfftfreq(len(sound.samples), 1 / sound.sampling_rate)
    step = np.round(np.log2(np.maximum(hertz, 1) / 500) * 8) % 8
    # Overtones 2 and 4 have the same pitch class; 3 and 5 are weaker.
    strength = [power[(step == n) & (hertz > 400)].sum() for n in range(8)]
    assert set(np.argsort(strength)[-2:]) == set(steps)


@pytest.mark.parametrize("said", [Utterance("a", "nobody"), Utterance("7", "instrument-0")])
def test_tones_refuse_what_they_cannot_say(said):
    with pytest.raises(WingsError, match=r"no voice of the tones|makes no sound"):
        Tones().say_all([said])


def test_parts_share_no_voice():
    for voices in (VOICES, Tones.voices):
        names = [*chain(voices.train, voices.validation, voices.test)]
        assert len(set(names)) == len(names)


def test_another_rate_keeps_the_tone_and_a_wav_keeps_the_samples(tmp_path):
    def sine(rate):
        return Sound(np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32), rate)

    for rate in (8000, 44100):
        assert np.abs(sine(22050).at_rate(rate).samples - sine(rate).samples).max() < 1e-4
    sine(16000).save(tmp_path / "a.wav")
    read = load_audio(tmp_path / "a.wav", 16000)
    assert np.abs(read - sine(16000).samples).max() < 1e-4


def test_silence_and_noise():
    tone = Sound(np.sin(np.arange(1600) / 5).astype(np.float32), 16000)
    padded = tone.padded(0.1, 0.25)
    assert padded.seconds == pytest.approx(0.45)
    assert abs(padded.trimmed().seconds - 0.1) < 0.001
    assert not len(Sound(np.zeros(5, np.float32), 16000).trimmed().samples)
    quiet = Sound(tone.samples / 2, 16000)
    noise = quiet.with_noise(20, np.random.default_rng(0)).samples - quiet.samples
    assert np.mean(noise**2) == pytest.approx(np.mean(quiet.samples**2) / 100, rel=0.1)
