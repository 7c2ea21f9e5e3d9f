"""Pictures with questions about them, each with the picture in words."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from wings.examples.drawings import QUARTERS, SIDE, Drawing, render_several
from wings.examples.experiment.gallery import COLOUR, HOW_MANY, NUMBERS, WHAT_NAME, look
from wings.examples.scenes import COLOURS, Scene, draw, make_distinct_scene

PICTURE_KINDS = ("name", "count", "scene")
TRAIN = "train"


@dataclass(frozen=True)
class Seen:
    """A picture and a question about it.

    Attributes:
        kind: one of `PICTURE_KINDS`.
        image: the picture.
        words: the picture in words.
        question, answer: what is asked, and the right answer.
        wrong: other answers of the same form.
        cluster: names what is drawn.
    """

    kind: str
    image: Image.Image
    words: str
    question: str
    answer: str
    wrong: Sequence[str]
    cluster: str


def see(kind: str, names: Sequence[Drawing], part: str, rng: random.Random) -> Seen:
    """Draws a picture of a kind.

    Args:
        kind: one of `PICTURE_KINDS`.
        names: drawings that are asked for by name.
        part: in "test", drawings have another look than in "train".
        rng: draws everything.
    """
    if kind == "scene":
        return see_scene(make_distinct_scene(rng), rng)
    drawing = rng.choice(names)
    if kind == "count":
        return see_several(drawing, rng.randint(1, QUARTERS), part, rng)
    image = look(drawing, rng, part != TRAIN)
    wrong = [other.name for other in names if other.name != drawing.name]
    return Seen(
        kind, image, f"a drawing of: {drawing.name}", WHAT_NAME, drawing.name, wrong, drawing.code
    )


def see_several(drawing: Drawing, count: int, part: str, rng: random.Random) -> Seen:
    """A picture of a drawing once or several times."""
    image, number = render_several(drawing, count, rng, part != TRAIN), NUMBERS[count - 1]
    wrong = [other for other in NUMBERS if other != number]
    words = f"{number} drawing{'s' * (count > 1)} of: {drawing.name}"
    return Seen("count", image, words, HOW_MANY, number, wrong, drawing.code)


def see_scene(scene: Scene, rng: random.Random) -> Seen:
    """A picture of a scene, with the question for the colour of one of its shapes."""
    shape = rng.choice(scene.shapes)
    wrong = [colour for colour in COLOURS if colour != shape.colour]
    return Seen(
        "scene", draw(scene, SIDE), words_of(scene), COLOUR.format(shape.shape), shape.colour,
        wrong, f"scene {shape.shape} {shape.colour}",
    )  # fmt: skip


def words_of(scene: Scene) -> str:
    """`a red star and a blue ring`."""
    return " and ".join(f"a {shape.colour} {shape.shape}" for shape in scene.shapes)
