"""The sounds of `wings quickstart --audio`: spoken words and sums, and questions about them.

The words are those that the small language model knows, and numbers are answered in digits. So it
can write all that it hears. All sounds of the test are in voices that no training has; a new sum is
of two numbers that no training adds, commuted or not.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from pathlib import Path

from wings.examples.conversations import read_lines, write_lines
from wings.examples.speech.questions import BELOW_TWENTY, Spoken, split, spoken_sum
from wings.examples.speech.records import save_sounds
from wings.examples.speech.sound import Speaker

from .dataset import AFTER_PICTURES
from .texts import WORDS, World, text_turn

DIGITS = BELOW_TWENTY[:10]
SPOKEN = (*WORDS, *DIGITS, "plus")  # all that is ever said
TRAINED_KINDS = ("word", "sum")
KINDS = ("word", "sum", "word", "new sum")  # of the test, in turn
# File of the test -> the held-out files whose exchanges follow each other in it. The last one's
# answer is asked for. A list of two ways is taken in turn.
SEQUENCES: dict[str, tuple[tuple[str, ...], ...]] = {
    "text_after_sound": (("sounds", "text"),),
    "text_after_both": (("pictures", "sounds", "text"), ("sounds", "pictures", "text")),
    "pictures_after_sound": (("sounds", "pictures"),),
    "sounds_after_picture": (("pictures", "sounds"),),
}


@dataclass(frozen=True)
class SoundAmounts:
    """Records of each file: for the first and the second stage of training, and for the test."""

    transcripts: int = 2400
    conversations: int = 3200
    held_out: int = 240


@dataclass(frozen=True)
class HearingSize:
    """Records, recordings of each word for the encoder, and optimizer steps."""

    amounts: SoundAmounts = field(default_factory=SoundAmounts)
    takes: int = 18
    stretches: int = 3000
    encoder_steps: int = 1000
    align_steps: int = 400
    instruct_steps: int = 350


def write_sounds(folder: Path, speaker: Speaker, amounts: SoundAmounts, seed: int) -> None:
    """Writes `transcripts`, `sounds` and `sounds_held_out.jsonl`, and `sounds/*.wav`.

    Args:
        folder: holds every path that the records name.
        speaker: says the texts; those of the test in voices that no training has.
        amounts: how many records.
        seed: each file has its own random stream.
    """
    rng = random.Random(f"transcripts {seed}")
    items = [transcript(rng) for _ in range(amounts.transcripts)]
    _write(folder, "transcripts", speaker, "train", items, seed)
    rng = random.Random(f"sounds {seed}")
    items = [spoken(rng, TRAINED_KINDS[n % 2]) for n in range(amounts.conversations)]
    world = World()
    around = [text_around(world, rng, n) for n in range(len(items))]
    _write(folder, "sounds", speaker, "train", items, seed, around)
    rng = random.Random(f"sounds_held_out {seed}")
    items = [spoken(rng, KINDS[n % len(KINDS)]) for n in range(amounts.held_out)]
    _write(folder, "sounds_held_out", speaker, "test", items, seed)


def write_sequences(folder: Path, seed: int) -> None:
    """Writes the tests of `SEQUENCES` from the held-out files that are in the folder."""
    for name, ways in SEQUENCES.items():
        rng = random.Random(f"{name} {seed}")
        parts = {one: read_lines(folder / f"{one}_held_out.jsonl") for one in ways[0]}
        for records in list(parts.values())[:-1]:
            rng.shuffle(records)
        records = []
        for n in range(min(map(len, parts.values()))):
            exchanges = [parts[one][n] for one in ways[n % len(ways)]]
            messages = [message for one in exchanges for message in one["messages"]]
            records.append({"kind": exchanges[-1]["kind"], "messages": messages})
        write_lines(folder / f"{name}_held_out.jsonl", records)


def spoken(rng: random.Random, kind: str) -> Spoken:
    """A question about a spoken word or a spoken sum, of a kind of `KINDS`."""
    if kind == "word":
        word = rng.choice(WORDS)
        return Spoken(kind, word, word)
    a, b = rng.choice(NEW_SUMS if kind == "new sum" else SUMS)
    return Spoken(kind, spoken_sum(a, b), f"{a} + {b} = {a + b}")


def text_around(world: World, rng: random.Random, n: int) -> tuple[list[dict], list[dict]]:
    """Messages before and after the n-th sound: a text question after it, in half also before.

    So a model learns to hear anywhere in a conversation, and to answer text after it has heard.
    """
    kind = AFTER_PICTURES[n % len(AFTER_PICTURES)]
    turns = [text_turn(world, rng, False, kind).messages() for _ in range(2)]
    return (turns[0] if n % 4 < 2 else []), turns[1]


def transcript(rng: random.Random) -> Spoken:
    """A request to write what is said: one to three words, or a sum that training has."""
    if rng.random() < 0.5:
        words = rng.choices((*WORDS, *DIGITS), k=rng.randint(1, 3))
    else:
        words = spoken_sum(*rng.choice(SUMS)).split()
    answer = " ".join(str(DIGITS.index(word)) if word in DIGITS else word for word in words)
    return Spoken("transcript", " ".join(words), answer)


def _sums(*parts: str) -> list[tuple[int, int]]:
    """The pairs of digits of some parts of the data, in both orders."""
    pairs = split(list(combinations_with_replacement(range(len(DIGITS)), 2)))
    chosen = {pair for part in parts for a, b in pairs[part] for pair in ((a, b), (b, a))}
    return sorted(chosen)


SUMS, NEW_SUMS = _sums("train", "validation"), _sums("test")


def _write(
    folder: Path,
    name: str,
    speaker: Speaker,
    part: str,
    items: Sequence[Spoken],
    seed: int,
    around: Sequence[tuple[list[dict], list[dict]]] = (),
) -> None:
    """Writes one file and its sounds; `around` has the messages before and after each question."""
    sounds = save_sounds(folder, name, speaker, part, [item.words for item in items], seed)
    records = []
    for n, (item, sound) in enumerate(zip(items, sounds, strict=True)):
        before, after = around[n] if around else ([], [])
        messages = before + item.messages(sound) + after
        records.append({"kind": item.kind, "messages": messages})
    write_lines(folder / f"{name}.jsonl", records)
