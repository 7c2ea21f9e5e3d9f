"""The experiment's files: training conversations and the questions of the tests.

Every cell reads the same files. Test pictures have other backgrounds, positions and angles than
training pictures. Drawings that are asked for their group are not trained on, and neither is the
style test's other set of drawings. No text question of training is in a test.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from wings.eval.items import Item, write_items
from wings.examples.conversations import read_lines, write_lines

from .gallery import Clustered, Gallery
from .size import PARTS, ExperimentSize
from .texts import OwnAnswers, own_answers, text_items

CLUSTERS = "clusters.json"


class Dataset:
    """Writes every file into the folder of a gallery.

    Args:
        gallery: makes the questions about pictures.
        size: numbers of records.
        answers: gives the untouched LLM's answers to questions.
    """

    def __init__(
        self,
        gallery: Gallery,
        size: ExperimentSize,
        answers: Callable[[list[str]], list[str]],
    ) -> None:
        self.gallery, self.size, self.answers = gallery, size, answers
        self.folder = gallery.folder

    def write(self) -> None:
        """Writes all files. The same size and drawings give the same bytes."""
        for name, count, make in (
            ("align", self.size.align, self._caption),
            ("instruct", self.size.instruct, self._conversation),
        ):
            rng = random.Random(f"stages {name}")
            records = ({"messages": make(rng)} for _ in range(count))
            write_lines(self.folder / f"{name}.jsonl", records)
        own = own_answers(self.answers, self.size)
        items = text_items(self.size)
        self._text_turns(items["train"], own)
        clusters = {part: self._tests(part, items[part]) for part in PARTS}
        (self.folder / CLUSTERS).write_text(json.dumps(clusters), encoding="utf-8")
        rng = random.Random("stages drift")
        pairs = [{"alone": turns, "before": self._before("test", rng)[0]} for turns in own.held_out]
        write_lines(self.folder / "drift.jsonl", pairs)

    def _text_turns(self, items: Sequence[Item], own: OwnAnswers) -> None:
        turns = [[*item.messages, {"role": "assistant", "content": item.answer}] for item in items]
        records = [{"messages": messages} for messages in [*turns, *own.trained]]
        write_lines(self.folder / "text.jsonl", records)

    def _tests(self, part: str, texts: Sequence[Item]) -> dict[str, dict[str, list[str]]]:
        """Writes the tests of one part; returns each item's cluster, by test and kind.

        Items that show the same drawing are one cluster.
        """
        rng = random.Random(f"stages {part}")
        kinds = [
            kind
            for kind, counts in self.size.pictures.items()
            for _ in range(counts[PARTS.index(part)])
            if kind != "style"
        ]
        rng.shuffle(kinds)  # so that any prefix is a fair sample
        tests: dict[str, list[Clustered]] = {"text": [], "mixed": []}
        tests["pictures"] = [self.gallery.item(kind, part, rng) for kind in kinds]
        for item in texts:
            before, cluster = self._before(part, rng)
            tests["text"].append((item, cluster))
            tests["mixed"].append((replace(item, messages=(*before, *item.messages)), cluster))
        if part == "test":
            count = self.size.pictures["style"][1] if self.gallery.redrawn else 0
            tests["style"] = [self.gallery.item("style", part, rng) for _ in range(count)]
            tests["blank"] = [
                (blank(item), cluster) for item, cluster in tests["pictures"][: self.size.blank]
            ]
        tests |= self.gallery.more_tests(part, self.size.turns)
        for test, pairs in tests.items():
            if pairs:
                write_items(self.folder / f"{test}_{part}.jsonl", [item for item, _ in pairs])
        clusters: dict[str, dict[str, list[str]]] = {}
        for test, pairs in tests.items():
            for item, cluster in pairs:
                clusters.setdefault(test, {}).setdefault(item.kind, []).append(cluster)
        return clusters

    def _caption(self, rng: random.Random) -> list[dict]:
        """One picture; two thirds are single drawings, which have the most names to learn."""
        return self.gallery.exchange(rng.choice(self.gallery.captions), "train", rng)[0]

    def _conversation(self, rng: random.Random) -> list[dict]:
        """One or two exchanges about one picture or two."""
        kind = rng.choice(self.gallery.trained)
        messages = self.gallery.exchange(kind, "train", rng)[0]
        if kind in self.gallery.followed and rng.random() < 0.5:
            # A second picture in a later turn.
            messages += self.gallery.exchange(rng.choice(("name", "group")), "train", rng)[0]
        return messages

    def _before(self, part: str, rng: random.Random) -> tuple[list[dict], str]:
        """A question about a picture and its right answer, to precede a text question."""
        return self.gallery.exchange(rng.choice(self.gallery.before), part, rng)


def blank(item: Item) -> Item:
    """The item, which is one message, with grey pictures."""
    (message,) = item.messages
    grey = {"type": "image", "image": "pictures/grey.png"}
    parts = [grey if part["type"] == "image" else part for part in message["content"]]
    return replace(item, messages=({**message, "content": parts},))


def read_pairs(path: Path) -> list[dict]:
    """The conversations of `drift.jsonl`, with full paths of the pictures."""
    pairs = read_lines(path)
    for pair in pairs:
        for message in pair["before"]:
            for part in message["content"] if isinstance(message["content"], list) else ():
                if part["type"] == "image":
                    part["image"] = str(path.parent / part["image"])
    return pairs
