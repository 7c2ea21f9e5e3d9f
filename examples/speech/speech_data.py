"""The data of `wings speech`: spoken questions, written ones, and those after a sound."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wings.errors import WingsError
from wings.examples.conversations import Exchange, read_lines, write_lines
from wings.examples.emoji.data import whole_sentences

from .questions import SpokenQuestions
from .records import SpokenAmounts, write_spoken
from .sound import SAMPLING_RATE, Sound, Speaker

COUNTS = "counts.json"
SILENCE = "sounds/silence.wav"
SECONDS = 2.0  # of the silence
TEXT_SHARE = 0.25  # of the conversations for training that a written question follows


@dataclass(frozen=True)
class SpeechAmounts:
    """Amount of data of a run.

    Attributes:
        spoken: records of each file of spoken questions.
        texts: written questions of the test, and as many for training; None for all.
    """

    spoken: SpokenAmounts = field(default_factory=lambda: SpokenAmounts(held_out=120))
    texts: int | None = None


def write_speech(
    folder: Path,
    speaker: Speaker,
    answer: Callable[[list[str]], list[str]],
    amounts: SpeechAmounts,
    seed: int,
) -> dict[str, int]:
    """Writes sounds and JSON Lines; returns the number of records of each file.

    A quarter of the conversations for training goes on with a written question, with the untouched
    LLM's own answer. The test asks other written questions, alone (`text`) and after a sound
    (`mixed`).

    Args:
        folder: gets the files of `write_spoken`, `text.jsonl` and `mixed.jsonl`.
        speaker: says the sounds.
        answer: gives the untouched LLM's answers to written questions.
        amounts: of data.
        seed: of all draws.
    """
    questions = SpokenQuestions()
    counts = write_spoken(folder, speaker, questions, amounts.spoken, seed)
    silence = np.zeros(int(SECONDS * SAMPLING_RATE), np.float32)
    Sound(silence, SAMPLING_RATE).save(folder / SILENCE)
    trained = [text for text, _ in questions.questions["train"]][: amounts.texts]
    pairs = whole_sentences(trained, answer(trained))
    rng = random.Random(f"text turns {seed}")
    records = read_lines(folder / "instruct.jsonl")
    for record in records:
        if pairs and rng.random() < TEXT_SHARE:
            record["messages"] += Exchange("text", *rng.choice(pairs)).messages()
    write_lines(folder / "instruct.jsonl", records)
    before = [record for record in read_lines(folder / "test.jsonl") if record["kind"] == "word"]
    texts, mixed = [], []
    for n, pair in enumerate(questions.questions["test"][: amounts.texts]):
        alone = Exchange("text", *pair).messages()
        heard = before[n % len(before)]["messages"]
        texts.append({"kind": "text", "messages": alone})
        mixed.append({"kind": "mixed", "messages": [*heard, *alone]})
    write_lines(folder / "text.jsonl", texts)
    write_lines(folder / "mixed.jsonl", mixed)
    return counts | {"text": len(texts), "mixed": len(mixed)}


def make_speech(
    folder: Path,
    speaker: Callable[[], Speaker],
    answer: Callable[[list[str]], list[str]],
    amounts: SpeechAmounts,
    seed: int,
) -> dict[str, int]:
    """The counts of `write_speech`, which runs if the folder has no finished data.

    Raises:
        WingsError: the folder has data of another seed.
    """
    file = folder / COUNTS
    if not file.exists():
        counts = write_speech(folder, speaker(), answer, amounts, seed)
        file.write_text(json.dumps({"seed": seed, "records": counts}), encoding="utf-8")
    found = json.loads(file.read_text(encoding="utf-8"))
    if found["seed"] != seed:
        raise WingsError(
            f"{folder} has the data of --seed {found['seed']}; give that seed, or another --output."
        )
    return found["records"]
