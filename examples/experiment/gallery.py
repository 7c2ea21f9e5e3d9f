"""Gallery: draws pictures, saves them, and asks the questions about them."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from wings.eval.items import Item
from wings.examples.conversations import Exchange
from wings.examples.drawings import QUARTERS, SIDE, Drawing, render, render_several
from wings.examples.scenes import draw, make_distinct_scene

NUMBERS = ("one", "two", "three", "four")
WHAT_NAME = "What is this?"
WHAT_GROUP = "Which kind of thing is this?"
HOW_MANY = "How many are there?"
HOW_MANY_SHAPES = "How many shapes are there?"
COLOUR = "What colour is the {}?"
OF_TWO = ("What is in the first picture?", "What is in the second picture?")
GREY = "#c0c0c0"
Clustered = tuple[Item, str]  # an item and the code of what it shows


@dataclass(frozen=True)
class Shown:
    """Pictures and a question about them.

    Attributes:
        images: in reading order.
        question, answer: what is asked, and the right answer.
        cluster: the code of the drawing that is asked for; a scene has a code of its own.
    """

    images: Sequence[Image.Image]
    question: str
    answer: str
    cluster: str


class Gallery:
    """Makes questions about pictures; test pictures differ from training pictures in their look.

    Args:
        folder: gets the folder `pictures`, which is created.
        parts: drawings of "train", "validation" and "test"; no drawing is in two of them.
        names: drawings that are asked for by name, all of "train".
        redrawn: other drawings of the same concepts, for the test of style.

    Attributes:
        captions: kinds of the questions of stage 1, repeated by their share.
        trained: kinds of the questions of stage 2.
        followed: kinds after which a second picture may follow in a later turn.
        before: kinds of the exchanges that precede a text question.
    """

    captions: tuple[str, ...] = ("name", "name", "name", "name", "count", "scene")
    trained: tuple[str, ...] = ("name", "group", "count", "scene", "pair")
    followed: tuple[str, ...] = ("count", "scene")
    before: tuple[str, ...] = ("name", "count", "scene")

    def __init__(
        self,
        folder: Path,
        parts: Mapping[str, Sequence[Drawing]],
        names: Sequence[Drawing],
        redrawn: Sequence[Drawing] = (),
    ) -> None:
        self.folder, self.parts, self.names, self.redrawn = folder, parts, names, redrawn
        self.pictures = 0
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (SIDE, SIDE), GREY).save(folder / "pictures" / "grey.png")

    def show(self, kind: str, part: str, rng: random.Random) -> Shown:
        """Draws the picture or pictures of a question of one kind."""
        if kind == "scene":
            return self._scene(rng)
        held_out = part != "train"
        if kind == "pair":
            two = rng.sample(self.names, 2)
            images = [look(drawing, rng, held_out) for drawing in two]
            which = rng.randrange(2)
            return Shown(images, OF_TWO[which], two[which].name, two[which].code)
        # In validation and test, groups are asked of drawings that are not trained on.
        of_kind: dict[str, Sequence[Drawing]] = {"group": self.parts[part], "style": self.redrawn}
        drawing = rng.choice(of_kind.get(kind, self.names))
        if kind == "count":
            count = rng.randint(1, QUARTERS)
            image = render_several(drawing, count, rng, held_out)
            return Shown([image], HOW_MANY, NUMBERS[count - 1], drawing.code)
        image = look(drawing, rng, held_out)
        if kind == "group":
            return Shown([image], WHAT_GROUP, drawing.group, drawing.code)
        return Shown([image], WHAT_NAME, drawing.name, drawing.code)

    def _scene(self, rng: random.Random) -> Shown:
        scene = make_distinct_scene(rng)
        shape = rng.choice(scene.shapes)
        question, answer = COLOUR.format(shape.shape), shape.colour
        if rng.random() < 0.25:
            question, answer = HOW_MANY_SHAPES, NUMBERS[len(scene.shapes) - 1]
        return Shown([draw(scene, SIDE)], question, answer, f"scene {self.pictures}")

    def save(self, images: Iterable[Image.Image]) -> list[str]:
        """Saves pictures; returns their paths in the folder."""
        paths = []
        for image in images:
            paths.append(f"pictures/{self.pictures:05d}.png")
            self.pictures += 1
            image.save(self.folder / paths[-1])
        return paths

    def exchange(self, kind: str, part: str, rng: random.Random) -> tuple[list[dict], str]:
        """A question about new pictures and its right answer as messages, and its cluster."""
        shown = self.show(kind, part, rng)
        messages = Exchange(kind, shown.question, shown.answer).messages(self.save(shown.images))
        return messages, shown.cluster

    def item(self, kind: str, part: str, rng: random.Random) -> Clustered:
        """An exchange as an item."""
        (*messages, answer), cluster = self.exchange(kind, part, rng)
        return Item(kind, tuple(messages), answer["content"]), cluster

    def more_tests(self, part: str, count: int) -> dict[str, list[Clustered]]:
        """Tests that only this gallery has, by name: here none.

        Args:
            part: "validation" or "test".
            count: items of each kind.
        """
        return {}


def look(drawing: Drawing, rng: random.Random, held_out: bool) -> Image.Image:
    """A random rendering of a drawing."""
    return render(drawing, rng.randrange(10**6), held_out)
