"""Sounds as arrays: trimming, resampling, noise, and wav files; and how a speaker is asked."""

import math
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

SAMPLING_RATE = 16000  # hertz, of the files that the examples write
SILENCE = 0.01  # of the loudest sample; less at either end is cut off


@dataclass(frozen=True, eq=False)
class Sound:
    """One channel of sound.

    Attributes:
        samples: [T] float32, from -1 to 1.
        sampling_rate: hertz.
    """

    samples: np.ndarray
    sampling_rate: int

    @property
    def seconds(self) -> float:
        """Duration."""
        return len(self.samples) / self.sampling_rate

    def trimmed(self) -> "Sound":
        """The sound without the silence before its first and after its last audible sample."""
        loud = np.abs(self.samples)
        (audible,) = np.nonzero(loud > SILENCE * loud.max(initial=0.0))
        if not len(audible):
            return Sound(self.samples[:0], self.sampling_rate)
        return Sound(self.samples[audible[0] : audible[-1] + 1], self.sampling_rate)

    def at_rate(self, sampling_rate: int) -> "Sound":
        """The sound at another rate: its spectrum is cut off or continued by zeros."""
        if sampling_rate == self.sampling_rate or not len(self.samples):
            return Sound(self.samples, sampling_rate)
        # With silence up to a whole number of periods of both rates, the ratio is exact, and the
        # length has small factors, for which the transform is fast.
        divisor = math.gcd(sampling_rate, self.sampling_rate)
        old, new = self.sampling_rate // divisor, sampling_rate // divisor
        periods = -(-len(self.samples) // old)
        spectrum = np.fft.rfft(self.samples, periods * old)
        samples = np.fft.irfft(spectrum[: periods * new // 2 + 1], periods * new) * (new / old)
        length = math.ceil(len(self.samples) * new / old)
        return Sound(np.clip(samples[:length], -1, 1).astype(np.float32), sampling_rate)

    def faster(self, factor: float) -> "Sound":
        """The sound as a tape that runs `factor` times as fast: shorter and higher."""
        places = np.arange(0, len(self.samples) - 1, factor)
        samples = np.interp(places, np.arange(len(self.samples)), self.samples)
        return Sound(samples.astype(np.float32), self.sampling_rate)

    def padded(self, before: float, after: float) -> "Sound":
        """The sound with silence around it, in seconds."""
        around = (round(before * self.sampling_rate), round(after * self.sampling_rate))
        return Sound(np.pad(self.samples, around), self.sampling_rate)

    def with_noise(self, decibels: float, rng: np.random.Generator) -> "Sound":
        """The sound plus white noise, whose power is `decibels` below the sound's mean power."""
        power = float(np.mean(np.square(self.samples))) if len(self.samples) else 0.0
        scale = np.sqrt(power * 10 ** (-decibels / 10))
        noise = rng.standard_normal(len(self.samples)) * scale
        return Sound(np.clip(self.samples + noise, -1, 1).astype(np.float32), self.sampling_rate)

    def save(self, path: Path) -> None:
        """Writes a wav file of 16 bits a sample."""
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(self.sampling_rate)
            file.writeframes(np.round(self.samples * 32767).astype("<i2").tobytes())


def from_int16(data: bytes) -> np.ndarray:
    """Samples [T] float32 from -1 to 1 of little-endian 16-bit integers."""
    return np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32) / 32768


@dataclass(frozen=True)
class Utterance:
    """A text to say.

    Attributes:
        text: words; digits are read as numbers.
        voice: one of the speaker's `voices`.
        rate: words a minute, 80 to 450.
        pitch: 0 to 99; 50 is the voice's own.
    """

    text: str
    voice: str
    rate: int = 175
    pitch: int = 50


@dataclass(frozen=True)
class Voices:
    """Names of voices by part of the data; no voice is in two parts."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


class Speaker(Protocol):
    """Turns text into sound: a synthesiser of speech, or tones."""

    @property
    def voices(self) -> Voices:
        """The voices to use."""

    def say_all(self, utterances: Sequence[Utterance]) -> list[Sound]:
        """One trimmed sound an utterance; equal utterances give equal samples."""
