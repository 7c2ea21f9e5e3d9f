"""Pictures of shapes on a dark background, one shape in a quarter, and questions about them."""

import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

from .conversations import Exchange

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
PAINT = {
    "red": (230, 57, 60),
    "green": (64, 186, 92),
    "blue": (66, 125, 240),
    "yellow": (247, 208, 60),
    "purple": (165, 84, 214),
    "white": (240, 240, 240),
}
COLOURS = tuple(PAINT)
PLACES = ("top-left", "top-right", "bottom-left", "bottom-right")
ORDER = ("first", "second")
DESCRIBE = ("Describe the picture.", "What do you see?", "Say what is in the picture.")
NUMBERS = ("none", "one", "two", "three", "four")
SIDE = 32  # pixels
SUPERSAMPLING = 8  # shapes are drawn this many times larger and then shrunk, for smooth edges

Thing = tuple[str, str, str]  # shape, colour, place


@dataclass(frozen=True)
class PlacedShape:
    """One shape, its colour, its quarter, and its centre and radius in pixels."""

    shape: str
    colour: str
    place: str
    centre: tuple[float, float]
    radius: float


@dataclass(frozen=True)
class Scene:
    """A picture before it is drawn: its shapes in reading order and the background's colour."""

    shapes: tuple[PlacedShape, ...]
    background: tuple[int, int, int]

    @property
    def things(self) -> list[Thing]:
        """(shape, colour, place) of every shape."""
        return [(shape.shape, shape.colour, shape.place) for shape in self.shapes]


def make_scene(rng: random.Random, count: int | None = None) -> Scene:
    """A scene of `count` shapes (else one to three) in different quarters."""
    count = count or rng.choices((1, 2, 3), (30, 45, 25))[0]
    shapes = []
    for shape, colour, place in random_things(rng, count, count):
        number = PLACES.index(place)
        x = SIDE / 4 + SIDE / 2 * (number % 2) + rng.uniform(-1, 1)
        y = SIDE / 4 + SIDE / 2 * (number // 2) + rng.uniform(-1, 1)
        shapes.append(PlacedShape(shape, colour, place, (x, y), rng.uniform(5.0, 6.2)))
    background = (rng.randint(14, 44), rng.randint(14, 44), rng.randint(14, 44))
    return Scene(tuple(shapes), background)


def make_distinct_scene(rng: random.Random) -> Scene:
    """A scene of one to three different shapes."""
    while True:
        scene = make_scene(rng)
        if len({shape.shape for shape in scene.shapes}) == len(scene.shapes):
            return scene


def two_scenes(rng: random.Random) -> tuple[Scene, Scene]:
    """Two scenes for one question, of one or two shapes each."""
    return make_scene(rng, rng.randint(1, 2)), make_scene(rng, rng.randint(1, 2))


def draw(scene: Scene, side: int = SIDE) -> Image.Image:
    """The picture, RGB, side x side pixels; the same scene gives the same pixels."""
    fine = side * SUPERSAMPLING
    image = Image.new("RGB", (fine, fine), scene.background)
    pencil = ImageDraw.Draw(image)
    for shape in scene.shapes:
        draw_shape(pencil, shape, fine / SIDE, scene.background)
    return image.resize((side, side), Image.Resampling.BOX)


def draw_shape(
    pencil: ImageDraw.ImageDraw,
    placed: PlacedShape,
    zoom: float,
    background: tuple[int, int, int],
) -> None:
    """Draws one shape at `zoom` times its size."""
    x, y = (value * zoom for value in placed.centre)
    r = placed.radius * zoom
    shape, paint = placed.shape, PAINT[placed.colour]
    if shape in ("circle", "ring"):
        pencil.ellipse((x - r, y - r, x + r, y + r), fill=paint)
        if shape == "ring":
            h = 0.55 * r
            pencil.ellipse((x - h, y - h, x + h, y + h), fill=background)
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


def random_things(rng: random.Random, most: int, least: int = 1) -> list[Thing]:
    """Things in different places, in reading order; shapes and colours may repeat."""
    places = sorted(rng.sample(range(len(PLACES)), rng.randint(least, most)))
    return [(rng.choice(SHAPES), rng.choice(COLOURS), PLACES[n]) for n in places]


def in_words(things: list[Thing]) -> str:
    """`red star top-left, blue ring bottom-right`."""
    return ", ".join(f"{colour} {shape} {place}" for shape, colour, place in things)


def ask(rng: random.Random, things: list[Thing], where: str = "") -> tuple[str, str]:
    """A question about things and its one answer; `where`: " in the first picture" or ""."""
    shape, colour, place = rng.choice(things)
    choices = [(f"What is {place}{where}?", f"{colour} {shape}")]
    if sum(thing[0] == shape for thing in things) == 1:
        choices.append((f"What colour is the {shape}{where}?", colour))
        choices.append((f"Where is the {shape}{where}?", place))
    if sum(thing[1] == colour for thing in things) == 1:
        choices.append((f"What shape is {colour}{where}?", shape))
    choices.append((f"How many shapes are there{where}?", NUMBERS[len(things)]))
    counted = rng.choice((colour, rng.choice(COLOURS)))
    count = sum(thing[1] == counted for thing in things)
    choices.append((f"How many shapes are {counted}{where}?", NUMBERS[count]))
    return rng.choice(choices)


def ask_of_two(rng: random.Random, both: tuple[list[Thing], list[Thing]]) -> tuple[str, str]:
    """A question about one of two pictures, or about which of the two has a shape."""
    shapes = [{thing[0] for thing in things} for things in both]
    only = [(shape, n) for n in range(2) for shape in sorted(shapes[n] - shapes[1 - n])]
    if only and rng.random() < 0.4:
        shape, n = rng.choice(only)
        return f"Which picture has a {shape}?", ORDER[n]
    n = rng.randrange(2)
    return ask(rng, both[n], f" in the {ORDER[n]} picture")


def describe(scene: Scene, rng: random.Random) -> Exchange:
    """A request to describe the only picture of a conversation."""
    return Exchange("pictures", rng.choice(DESCRIBE), in_words(scene.things))


def question(scene: Scene, rng: random.Random) -> Exchange:
    """A question about the only picture of a conversation."""
    return Exchange("pictures", *ask(rng, scene.things))


def question_of_two(scenes: tuple[Scene, Scene], rng: random.Random) -> Exchange:
    """A question about two pictures."""
    return Exchange("pictures", *ask_of_two(rng, (scenes[0].things, scenes[1].things)))
