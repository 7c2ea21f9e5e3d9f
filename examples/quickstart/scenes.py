"""Pictures that the package draws: shapes on a dark ground, one in a quarter, and questions."""

import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

from .texts import DESCRIBE, PLACES, Thing, Turn, ask, ask_of_two, some_things, tell

SIDE = 32  # pixels
FINE = 8  # shapes are drawn this many times larger and then shrunk, for smooth edges
PAINT = {
    "red": (230, 57, 60),
    "green": (64, 186, 92),
    "blue": (66, 125, 240),
    "yellow": (247, 208, 60),
    "purple": (165, 84, 214),
    "white": (240, 240, 240),
}


@dataclass(frozen=True)
class Mark:
    """One shape: what, in which colour, in which quarter, and how it is placed there (pixels)."""

    shape: str
    colour: str
    place: str
    centre: tuple[float, float]
    radius: float


@dataclass(frozen=True)
class Scene:
    """A picture before it is drawn: its shapes in reading order and the colour of the ground."""

    marks: tuple[Mark, ...]
    ground: tuple[int, int, int]

    @property
    def things(self) -> list[Thing]:
        """(shape, colour, place) of every shape: what questions are asked about."""
        return [(mark.shape, mark.colour, mark.place) for mark in self.marks]


def make_scene(rng: random.Random, count: int | None = None) -> Scene:
    """So many shapes (else one to three) in different quarters; shapes and colours may repeat."""
    count = count or rng.choices((1, 2, 3), (30, 45, 25))[0]
    marks = []
    for shape, colour, place in some_things(rng, count, count):
        number = PLACES.index(place)
        x = SIDE / 4 + SIDE / 2 * (number % 2) + rng.uniform(-1, 1)
        y = SIDE / 4 + SIDE / 2 * (number // 2) + rng.uniform(-1, 1)
        marks.append(Mark(shape, colour, place, (x, y), rng.uniform(5.0, 6.2)))
    ground = (rng.randint(14, 44), rng.randint(14, 44), rng.randint(14, 44))
    return Scene(tuple(marks), ground)


def two_scenes(rng: random.Random) -> tuple[Scene, Scene]:
    """Two pictures for one question, of one or two shapes each."""
    return make_scene(rng, rng.randint(1, 2)), make_scene(rng, rng.randint(1, 2))


def draw(scene: Scene, side: int = SIDE) -> Image.Image:
    """The picture, RGB, side x side pixels; the same scene gives the same pixels."""
    fine = side * FINE
    image = Image.new("RGB", (fine, fine), scene.ground)
    pencil = ImageDraw.Draw(image)
    for mark in scene.marks:
        x, y = (value * fine / SIDE for value in mark.centre)
        draw_shape(
            pencil, mark.shape, x, y, mark.radius * fine / SIDE, PAINT[mark.colour], scene.ground
        )
    return image.resize((side, side), Image.Resampling.BOX)


def draw_shape(
    pencil: ImageDraw.ImageDraw,
    shape: str,
    x: float,
    y: float,
    r: float,
    paint: tuple[int, int, int],
    ground: tuple[int, int, int],
) -> None:
    """One shape around (x, y) that reaches r pixels far."""
    if shape in ("circle", "ring"):
        pencil.ellipse((x - r, y - r, x + r, y + r), fill=paint)
        if shape == "ring":
            h = 0.55 * r
            pencil.ellipse((x - h, y - h, x + h, y + h), fill=ground)
    elif shape == "square":
        h = 0.86 * r
        pencil.rectangle((x - h, y - h, x + h, y + h), fill=paint)
    elif shape == "cross":
        h = 0.32 * r
        pencil.rectangle((x - h, y - r, x + h, y + r), fill=paint)
        pencil.rectangle((x - r, y - h, x + r, y + h), fill=paint)
    else:
        points, inner = (3, 0.5) if shape == "triangle" else (5, 0.42)
        corners = []
        for n in range(2 * points):
            reach = r * 1.12 if n % 2 == 0 else r * 1.12 * inner
            angle = math.pi * n / points - math.pi / 2
            corners.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
        pencil.polygon(corners, fill=paint)


def describe(scene: Scene, rng: random.Random) -> Turn:
    """What is in the only picture of a conversation."""
    return Turn("pictures", rng.choice(DESCRIBE), tell(scene.things))


def question(scene: Scene, rng: random.Random) -> Turn:
    """A question about the only picture of a conversation."""
    return Turn("pictures", *ask(rng, scene.things))


def question_of_two(scenes: tuple[Scene, Scene], rng: random.Random) -> Turn:
    """A question about one of two pictures, or about which of the two."""
    return Turn("pictures", *ask_of_two(rng, (scenes[0].things, scenes[1].things)))
