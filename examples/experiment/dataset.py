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

from PIL import Image

from wings.eval.items import Item, write_items
from wings.examples.conversations import Exchange, read_lines, write_lines
from wings.examples.drawings import (
    DESCRIBED,
    QUARTERS,
    SIDE,
    Drawing,
    catalogue,
    named,
    render,
    render_several,
    split,
)
from wings.examples.scenes import draw, make_distinct_scene

from .size import PARTS, ExperimentSize
from .style import redrawn
from .texts import OwnAnswers, own_answers, text_items

NUMBERS = ("one", "two", "three", "four")
WHAT_NAME = "What is this?"
WHAT_GROUP = "Which kind of thing is this?"
HOW_MANY = "How many are there?"
HOW_MANY_SHAPES = "How many shapes are there?"
COLOUR = "What colour is the {}?"
OF_TWO = ("What is in the first picture?", "What is in the second picture?")
TRAINED = ("name", "group", "count", "scene", "pair")
BEFORE = ("name", "count", "scene")  # kinds of exchanges that precede a text question
SEED = 17  # of the drawings' split: another than that of `wings emoji`
GREY = "#c0c0c0"
CLUSTERS = "clusters.json"


class Dataset:
    """Writes every file into `folder`, which it creates.

    Args:
        folder: gets the files and, in `pictures/`, the pictures.
        size: numbers of records.
        answers: gives the untouched LLM's answers to questions.
        style: an unpacked package of other drawings (see `style.py`), or None for no style test.
    """

    def __init__(
        self,
        folder: Path,
        size: ExperimentSize,
        answers: Callable[[list[str]], list[str]],
        style: Path | None = None,
    ) -> None:
        self.folder, self.size, self.answers = folder, size, answers
        self.parts = split([d for d in catalogue() if d.group not in DESCRIBED], SEED)
        self.names = named(self.parts["train"])
        self.redrawn = redrawn(self.names, style, folder / "style") if style else []
        self.pictures = 0
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (SIDE, SIDE), GREY).save(folder / "pictures" / "grey.png")

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
        tests: dict[str, list[tuple[Item, str]]] = {"text": [], "mixed": []}
        tests["pictures"] = [self._item(kind, part, rng) for kind in kinds]
        for item in texts:
            before, cluster = self._before(part, rng)
            tests["text"].append((item, cluster))
            tests["mixed"].append((replace(item, messages=(*before, *item.messages)), cluster))
        if part == "test":
            count = self.size.pictures["style"][1] if self.redrawn else 0
            tests["style"] = [self._item("style", part, rng) for _ in range(count)]
            tests["blank"] = [
                (self._blank(item), cluster)
                for item, cluster in tests["pictures"][: self.size.blank]
            ]
        for test, pairs in tests.items():
            if pairs:
                write_items(self.folder / f"{test}_{part}.jsonl", [item for item, _ in pairs])
        clusters: dict[str, dict[str, list[str]]] = {}
        for test, pairs in tests.items():
            for item, cluster in pairs:
                clusters.setdefault(test, {}).setdefault(item.kind, []).append(cluster)
        return clusters

    @staticmethod
    def _blank(item: Item) -> Item:
        """The item with grey pictures."""
        (message,) = item.messages
        grey = {"type": "image", "image": "pictures/grey.png"}
        parts = [grey if part["type"] == "image" else part for part in message["content"]]
        return replace(item, messages=({**message, "content": parts},))

    def _caption(self, rng: random.Random) -> list[dict]:
        """One picture; two thirds are single drawings, which have the most names to learn."""
        kinds = ("name", "name", "name", "name", "count", "scene")
        return self._exchange(rng.choice(kinds), "train", rng)[0]

    def _conversation(self, rng: random.Random) -> list[dict]:
        """One or two exchanges about one picture or two."""
        kind = rng.choice(TRAINED)
        messages = self._exchange(kind, "train", rng)[0]
        if kind in ("count", "scene") and rng.random() < 0.5:
            # A second picture in a later turn.
            messages += self._exchange(rng.choice(("name", "group")), "train", rng)[0]
        return messages

    def _item(self, kind: str, part: str, rng: random.Random) -> tuple[Item, str]:
        (*messages, answer), cluster = self._exchange(kind, part, rng)
        return Item(kind, tuple(messages), answer["content"]), cluster

    def _before(self, part: str, rng: random.Random) -> tuple[list[dict], str]:
        """A question about a picture and its right answer, to precede a text question."""
        return self._exchange(rng.choice(BEFORE), part, rng)

    def _exchange(self, kind: str, part: str, rng: random.Random) -> tuple[list[dict], str]:
        """Draws the picture or pictures of a question.

        Returns:
            the question and its answer as messages, and the code of the drawing that it asks for;
            a scene has a code of its own.
        """
        held_out = part != "train"

        def rendered(drawing: Drawing) -> Image.Image:
            return render(drawing, rng.randrange(10**6), held_out)

        cluster = f"scene {self.pictures}"
        if kind == "scene":
            scene = make_distinct_scene(rng)
            images = [draw(scene, SIDE)]
            shape = rng.choice(scene.shapes)
            question, answer = COLOUR.format(shape.shape), shape.colour
            if rng.random() < 0.25:
                question, answer = HOW_MANY_SHAPES, NUMBERS[len(scene.shapes) - 1]
        elif kind == "pair":
            two = rng.sample(self.names, 2)
            images = [rendered(drawing) for drawing in two]
            which = rng.randrange(2)
            question, answer, cluster = OF_TWO[which], two[which].name, two[which].code
        else:
            # In validation and test, groups are asked of drawings that are not trained on.
            of_kind: dict[str, Sequence[Drawing]] = {
                "group": self.parts[part],
                "style": self.redrawn,
            }
            drawing = rng.choice(of_kind.get(kind, self.names))
            cluster = drawing.code
            if kind == "count":
                count = rng.randint(1, QUARTERS)
                images = [render_several(drawing, count, rng, held_out)]
                question, answer = HOW_MANY, NUMBERS[count - 1]
            else:
                images = [rendered(drawing)]
                question, answer = WHAT_NAME, drawing.name
                if kind == "group":
                    question, answer = WHAT_GROUP, drawing.group
        pictures = []
        for image in images:
            pictures.append(f"pictures/{self.pictures:05d}.png")
            self.pictures += 1
            image.save(self.folder / pictures[-1])
        return Exchange(kind, question, answer).messages(pictures), cluster


def read_pairs(path: Path) -> list[dict]:
    """The conversations of `drift.jsonl`, with full paths of the pictures."""
    pairs = read_lines(path)
    for pair in pairs:
        for message in pair["before"]:
            for part in message["content"] if isinstance(message["content"], list) else ():
                if part["type"] == "image":
                    part["image"] = str(path.parent / part["image"])
    return pairs
