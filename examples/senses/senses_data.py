"""The study's files: trainings of each sense and of both, text, and the questions of the tests.

All models read the same files. Test pictures have other backgrounds, positions and angles, and test
sounds other voices, than those of the trainings. Questions that need both senses are trained on by
the rows with more steps alone.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from wings.eval.items import Item, write_items
from wings.examples.conversations import read_lines, write_lines
from wings.examples.drawings import SIDE, Drawing
from wings.examples.experiment.dataset import CLUSTERS
from wings.examples.experiment.gallery import COLOUR, GREY, HOW_MANY, WHAT_NAME
from wings.examples.experiment.texts import own_answers, text_items
from wings.examples.scenes import COLOURS, SHAPES
from wings.examples.speech.questions import BELOW_TWENTY, Spoken, SpokenQuestions
from wings.examples.speech.records import KINDS, every_in_turn, save_sounds
from wings.examples.speech.sound import SAMPLING_RATE, Sound, Speaker

from .both_questions import BOTH, BOTH_KINDS, TOLD, UNHEARD, UNSEEN, BothQuestion, ask_both
from .rows import AUDIO, IMAGE
from .seen import PICTURE_KINDS, TRAIN, Seen, see
from .senses_size import SensesSize

PICTURE, SOUND = "picture", "sound"
GREY_PICTURE, SILENCE = "pictures/grey.png", "sounds/silence.wav"
TEST = "test"
REPLAY = "replay"  # text turns of the trainings
SEED = 0  # of the draws of all files; seeds of trainings are others


class SensesData:
    """Writes every file into a folder.

    Args:
        folder: of the data.
        names: drawings that are asked for by name.
        speaker: says the sounds.
        size: numbers of records.
        answers: gives the untouched LLM's answers to questions.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[Drawing],
        speaker: Speaker,
        size: SensesSize,
        answers: Callable[[list[str]], list[str]],
    ) -> None:
        self.folder, self.names, self.speaker = folder, names, speaker
        self.size, self.answers = size, answers
        words = (*(name.name for name in names), *SHAPES, *COLOURS, *BELOW_TWENTY[1:10])
        self.questions = SpokenQuestions(words=tuple(dict.fromkeys(words)))
        # Words of questions about pictures are heard in training, but no such question.
        asked = " ".join((WHAT_NAME, HOW_MANY, COLOUR)).replace("?", "").replace("{}", "")
        known = self.questions.vocabulary
        known += [word for word in dict.fromkeys(asked.split()) if word not in known]
        self.pictures = 0

    def write(self) -> None:
        """Writes all files. The same size, drawings and speaker give the same bytes."""
        (self.folder / "pictures").mkdir(parents=True, exist_ok=True)
        (self.folder / "sounds").mkdir(exist_ok=True)
        Image.new("RGB", (SIDE, SIDE), GREY).save(self.folder / GREY_PICTURE)
        silence = np.zeros(SAMPLING_RATE, np.float32)
        Sound(silence, SAMPLING_RATE).save(self.folder / SILENCE)
        self._write_trainings()
        own = own_answers(self.answers, self.size.texts)
        texts = text_items(self.size.texts)
        turns = [item_turns(item) for item in texts["train"]]
        write_lines(
            self.folder / f"{REPLAY}.jsonl", ({"messages": turn} for turn in [*turns, *own.trained])
        )
        tests = self._tests(texts[TEST])
        clusters: dict[str, dict[str, list[str]]] = {}
        for test, items in tests.items():
            write_items(self.folder / f"{test}.jsonl", items)
            for item in items:
                clusters.setdefault(test, {}).setdefault(item.kind, []).append(item.cluster)
        (self.folder / CLUSTERS).write_text(json.dumps(clusters), encoding="utf-8")
        befores = self._befores(len(own.held_out), "drift")
        pairs = (
            {"alone": turns, **{name: before[0] for name, before in both.items()}}
            for turns, both in zip(own.held_out, befores, strict=True)
        )
        write_lines(self.folder / "drift.jsonl", pairs)

    def _write_trainings(self) -> None:
        """Both stages of each sense, and the training on questions that need both."""
        for stage in ("align", "instruct"):
            rng, count = random.Random(f"image {stage} {SEED}"), self.size.records_of(IMAGE, stage)
            seen = [see(rng.choice(PICTURE_KINDS), self.names, TRAIN, rng) for _ in range(count)]
            records = [{"messages": self._seen(one)} for one in seen]
            write_lines(self.folder / f"image-{stage}.jsonl", records)
            kinds = ("transcript",) if stage == "align" else KINDS
            rng, count = random.Random(f"audio {stage} {SEED}"), self.size.records_of(AUDIO, stage)
            said = [self.questions.draw(rng, TRAIN, kinds[n % len(kinds)]) for n in range(count)]
            turns = self._spoken(said, f"audio-{stage}", TRAIN)
            records = [{"messages": messages} for messages in turns]
            write_lines(self.folder / f"audio-{stage}.jsonl", records)
        items = self._both(self.size.records_of(BOTH, "instruct"), TRAIN)[BOTH]
        records = [{"messages": item_turns(item)} for item in items]
        write_lines(self.folder / "both-instruct.jsonl", records)

    def _tests(self, texts: Sequence[Item]) -> dict[str, list[Item]]:
        """The items of every test, by its name."""
        rng = random.Random(f"pictures test {SEED}")
        seen = [
            see(kind, self.names, TEST, rng)
            for _ in range(self.size.items)
            for kind in PICTURE_KINDS
        ]
        rng = random.Random(f"sounds test {SEED}")
        said = every_in_turn(self.questions, rng, TEST, KINDS, self.size.items)
        spoken = self._spoken(said, "sounds", TEST)
        tests = {
            "pictures": [item_of(one.kind, self._seen(one), one.cluster) for one in seen],
            "pictures_told": [item_of(one.kind, told(one), one.cluster) for one in seen],
            "sounds": [
                item_of(one.kind, turns, one.words) for one, turns in zip(said, spoken, strict=True)
            ],
            "sounds_told": [item_of(one.kind, one.messages(), one.words) for one in said],
        }
        both = self._both(self.size.items * len(BOTH_KINDS), TEST)
        tests |= {test: items for test, items in both.items()}
        tests["text"] = [
            replace(item, cluster=f"text {number}") for number, item in enumerate(texts)
        ]
        befores = self._befores(len(texts), "after")
        for name in (PICTURE, SOUND):
            tests[f"after_{name}"] = [
                replace(item, messages=(*before[name][0], *item.messages), cluster=before[name][1])
                for item, before in zip(texts, befores, strict=True)
            ]
        return tests

    def _both(self, count: int, part: str) -> dict[str, list[Item]]:
        """Questions that need both senses, in all forms."""
        rng = random.Random(f"both {part} {SEED}")
        asked = [
            ask_both(BOTH_KINDS[n % len(BOTH_KINDS)], self.names, part, rng) for n in range(count)
        ]
        sounds = self._sounds([one.said for one in asked], f"both-{part}", part)
        pairs = [(self._picture(one.seen), sound) for one, sound in zip(asked, sounds, strict=True)]
        return forms(asked, pairs, self.size.blank)

    def _befores(self, count: int, name: str) -> list[dict[str, tuple[list[dict], str]]]:
        """Exchanges that precede a text question: of each sense, its messages and its cluster."""
        rng = random.Random(f"{name} {SEED}")
        seen = [see(rng.choice(PICTURE_KINDS), self.names, TEST, rng) for _ in range(count)]
        said = [self.questions.draw(rng, TEST, rng.choice(KINDS)) for _ in range(count)]
        return [
            {PICTURE: (self._seen(one), one.cluster), SOUND: (turns, spoken.words)}
            for one, spoken, turns in zip(
                seen, said, self._spoken(said, f"before-{name}", TEST), strict=True
            )
        ]

    def _seen(self, one: Seen) -> list[dict]:
        """The question about a picture, and its answer."""
        parts = [{"type": "image", "image": self._picture(one)}]
        content = [*parts, {"type": "text", "text": one.question}]
        return [
            {"role": "user", "content": content},
            {"role": "assistant", "content": one.answer},
        ]

    def _picture(self, one: Seen) -> str:
        path = f"pictures/{self.pictures:05d}.png"
        self.pictures += 1
        one.image.save(self.folder / path)
        return path

    def _spoken(self, said: Sequence[Spoken], name: str, part: str) -> list[list[dict]]:
        """Questions about sounds with their answers."""
        sounds = self._sounds([one.words for one in said], name, part)
        return [one.messages(sound) for one, sound in zip(said, sounds, strict=True)]

    def _sounds(self, words: Sequence[str], name: str, part: str) -> list[str]:
        return save_sounds(self.folder, name, self.speaker, part, words, SEED)


def forms(
    asked: Sequence[BothQuestion], files: Sequence[tuple[str, str]], blank: int
) -> dict[str, list[Item]]:
    """Questions in all forms; of those without one sense, the first `blank`."""
    pairs = list(zip(asked, files, strict=True))
    return {
        BOTH: [one.item(picture, sound) for one, (picture, sound) in pairs],
        TOLD: [one.told() for one in asked],
        UNSEEN: [one.item(GREY_PICTURE, sound) for one, (_, sound) in pairs[:blank]],
        UNHEARD: [one.item(picture, SILENCE) for one, (picture, _) in pairs[:blank]],
    }


def told(one: Seen) -> list[dict]:
    """The question about a picture with the picture in words, and its answer."""
    content = f"You see {one.words}. {one.question}"
    return [{"role": "user", "content": content}, {"role": "assistant", "content": one.answer}]


def item_of(kind: str, turns: Sequence[dict], cluster: str) -> Item:
    """An exchange as an item; an answer is right if it mentions the reference."""
    *messages, answer = turns
    return Item(kind, tuple(messages), answer["content"], "mention", cluster=cluster)


def item_turns(item: Item) -> list[dict]:
    """An item as a conversation with its answer."""
    return [*item.messages, {"role": "assistant", "content": item.answer}]


def read_pairs(path: Path) -> list[dict[str, list[dict]]]:
    """The conversations of `drift.jsonl`, with full paths of pictures and sounds."""
    pairs = read_lines(path)
    for pair in pairs:
        for message in [message for turns in pair.values() for message in turns]:
            for part in message["content"] if isinstance(message["content"], list) else ():
                for kind in {"image", "audio"} & part.keys():
                    part[kind] = str(path.parent / part[kind])
    return pairs
