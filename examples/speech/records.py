"""The spoken questions as files: JSON Lines of chat messages, and wav.

write_spoken(folder, synthesiser() or Tones(), SpokenQuestions(), SpokenAmounts(), seed=0)
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from wings.errors import WingsError
from wings.examples.conversations import write_lines

from .questions import Spoken, SpokenQuestions
from .sound import SAMPLING_RATE, Sound, Speaker, Utterance

KINDS = ("word", "sum", "question")
RATES, PITCHES = (140, 200), (35, 65)
NOISE = (15.0, 40.0)  # decibels below the speech
SILENCE = (0.05, 0.3)  # seconds before and after


@dataclass(frozen=True)
class SpokenAmounts:
    """Records of each file.

    Attributes:
        align: transcripts.
        instruct: questions for training, of all kinds in turn.
        held_out: questions of each kind in `validation` and in `test`; beyond those that the part
            has, they repeat in other voices.
    """

    align: int = 3000
    instruct: int = 3000
    held_out: int = 60


def write_spoken(
    folder: Path,
    speaker: Speaker,
    questions: SpokenQuestions,
    amounts: SpokenAmounts,
    seed: int,
    kinds: Sequence[str] = KINDS,
) -> dict[str, int]:
    """Writes `align`, `instruct`, `validation`, `test` and `ceiling.jsonl`, and `sounds/*.wav`.

    The records of `ceiling` are those of `test` with the sound given as words. The files are the
    same for the same arguments and the same release of the speaker.

    Args:
        folder: holds every path that the records name; made where it is missing.
        speaker: says training texts in its voices for training, and the others likewise.
        questions: what can be asked.
        amounts: how many records.
        seed: each file has its own random stream, so the amount of one does not change another.
        kinds: of questions.

    Returns:
        The number of records by file.

    Raises:
        WingsError: the speaker cannot say a text.
    """
    drawn = {
        "align": ["transcript"] * amounts.align,
        "instruct": [kinds[n % len(kinds)] for n in range(amounts.instruct)],
    }
    counts = {}
    for name in ("align", "instruct", "validation", "test"):
        rng, part = random.Random(f"{name} {seed}"), "train" if name in drawn else name
        if name in drawn:
            items = [questions.draw(rng, part, kind) for kind in drawn[name]]
        else:
            items = every_in_turn(questions, rng, part, kinds, amounts.held_out)
        sounds = save_sounds(folder, name, speaker, part, [item.words for item in items], seed)
        _write(folder / f"{name}.jsonl", items, sounds)
        counts[name] = len(items)
    _write(folder / "ceiling.jsonl", items, [None] * len(items))
    return counts | {"ceiling": len(items)}


def every_in_turn(
    questions: SpokenQuestions, rng: random.Random, part: str, kinds: Sequence[str], amount: int
) -> list[Spoken]:
    """`amount` items of each kind, the kinds in turn; an item repeats after all others alone."""
    order = []
    for kind in kinds:
        items = questions.every(part, kind)
        rng.shuffle(items)
        order.append(list(islice(cycle(items), amount)))
    return [item for group in zip(*order, strict=True) for item in group]


def save_sounds(
    folder: Path, name: str, speaker: Speaker, part: str, texts: Sequence[str], seed: int
) -> list[str]:
    """Has texts said by voices of a part and writes them, at `SAMPLING_RATE`.

    Voice, rate, pitch, silence before and after, and white noise are drawn for each text.

    Returns:
        Paths `sounds/NAME-00000.wav`, ... below `folder`.

    Raises:
        WingsError: no such part, or the speaker cannot say a text.
    """
    voices = getattr(speaker.voices, part, None)
    if voices is None:
        raise WingsError(f"There is no part {part!r} of voices; give train, validation or test.")
    rng = random.Random(f"sounds {name} {seed}")
    said = [
        Utterance(text, rng.choice(voices), rng.randint(*RATES), rng.randint(*PITCHES))
        for text in texts
    ]
    (folder / "sounds").mkdir(parents=True, exist_ok=True)
    paths = [f"sounds/{name}-{number:05d}.wav" for number in range(len(texts))]
    for path, sound in zip(paths, speaker.say_all(said), strict=True):
        recorded(sound, rng).save(folder / path)
    return paths


def recorded(sound: Sound, rng: random.Random) -> Sound:
    """The sound as a microphone in a room would have it: at `SAMPLING_RATE`, with noise."""
    noise = np.random.default_rng(rng.getrandbits(64))
    sound = sound.at_rate(SAMPLING_RATE).padded(rng.uniform(*SILENCE), rng.uniform(*SILENCE))
    return sound.with_noise(rng.uniform(*NOISE), noise)


def _write(path: Path, items: Sequence[Spoken], sounds: Iterable[str | None]) -> None:
    records = (
        {"kind": item.kind, "messages": item.messages(sound)}
        for item, sound in zip(items, sounds, strict=True)
    )
    write_lines(path, records)
