"""Tones that stand for words, made with numpy where no synthesiser of speech is installed.

A word is spelled. Each letter is a chord of two of eight pitches, so that no two words sound alike.
A voice is an instrument: the strength of its overtones, its octave and tuning, attack and noise.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from string import ascii_lowercase

import numpy as np

from wings.errors import WingsError

from .sound import SAMPLING_RATE, Sound, Utterance, Voices

PITCHES = 8  # in an octave, at equal ratios, so that an overtone's octave is a pitch as well
LOWEST = 500.0  # hertz
LETTER = 0.06  # seconds at 175 words a minute
CODE = dict(zip(ascii_lowercase, combinations(range(PITCHES), 2), strict=False))
VOICES = Voices(
    train=tuple(f"instrument-{n}" for n in range(16)),
    validation=tuple(f"instrument-{n}" for n in range(16, 20)),
    test=tuple(f"instrument-{n}" for n in range(20, 25)),
)


@dataclass(frozen=True)
class Instrument:
    """The character of a voice.

    Attributes:
        overtones: amplitude of each harmonic; the first is the pitch itself.
        octave: factor of all frequencies, 1 or 2.
        tuning: shift of all frequencies, in steps between two pitches.
        attack: share of a letter in which the tone swells.
        noise: amplitude of white noise under the tones.
    """

    overtones: tuple[float, ...]
    octave: int
    tuning: float
    attack: float
    noise: float

    @classmethod
    def of(cls, voice: str) -> "Instrument":
        """The instrument of a voice's name, the same in every run."""
        rng = random.Random(voice)
        return cls(
            overtones=(1.0, *(rng.uniform(0, 0.6) / n for n in range(2, 6))),
            octave=rng.choice((1, 2)),
            tuning=rng.uniform(-0.2, 0.2),
            attack=rng.uniform(0.05, 0.4),
            noise=rng.uniform(0.0, 0.02),
        )


class Tones:
    """Spells texts as chords; the same interface as `Synthesiser`."""

    voices = VOICES

    def say_all(self, utterances: Sequence[Utterance]) -> list[Sound]:
        """Spells the utterances.

        Returns:
            A sound each, at `SAMPLING_RATE`. Letters alone sound; all else is a pause of a letter.

        Raises:
            WingsError: a voice that is not in `voices`, or a text without a letter.
        """
        return [self._say(said) for said in utterances]

    def _say(self, said: Utterance) -> Sound:
        if said.voice not in (*VOICES.train, *VOICES.validation, *VOICES.test):
            raise WingsError(f"{said} has no voice of the tones; give one of {VOICES.train}.")
        if not any(letter in CODE for letter in said.text.lower()):
            raise WingsError(f"{said} makes no sound; give a text with letters from a to z.")
        instrument = Instrument.of(said.voice)
        # Half a step at most, so that pitches of different voices do not meet.
        tuning = instrument.tuning + (said.pitch - 50) / 250
        count = round(SAMPLING_RATE * LETTER * 175 / said.rate)
        rng = np.random.default_rng(list(said.text.encode()))
        letters = [
            self._letter(instrument, CODE.get(letter, ()), tuning, count, rng)
            for letter in said.text.lower()
        ]
        samples = np.concatenate(letters)
        return Sound((0.8 * samples / np.abs(samples).max()).astype(np.float32), SAMPLING_RATE)

    @staticmethod
    def _letter(
        instrument: Instrument,
        chord: Sequence[int],
        tuning: float,
        count: int,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Samples [count] float64 of one chord, which may be empty."""
        seconds = np.arange(count) / SAMPLING_RATE
        wave = instrument.noise * rng.standard_normal(count)
        for pitch in chord:
            hertz = LOWEST * instrument.octave * 2 ** ((pitch + tuning) / PITCHES)
            for number, amplitude in enumerate(instrument.overtones, 1):
                wave += amplitude * np.sin(2 * np.pi * hertz * number * seconds)
        swell = np.minimum(1, np.arange(count) / max(1, instrument.attack * count))
        fade = np.minimum(1, np.arange(count)[::-1] / max(1, 0.1 * count))
        return wave * swell * fade
