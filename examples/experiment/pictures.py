"""The experiment's pictures: drawings of things, several of a kind, scenes of coloured shapes."""

import io
import random

from PIL import Image

from wings.examples.emoji.catalogue import Drawing
from wings.examples.emoji.drawings import HELD_BACKGROUNDS, SEEN_BACKGROUNDS, SIDE, draw, rendering
from wings.examples.quickstart.scenes import Scene, make_scene
from wings.examples.quickstart.scenes import draw as draw_scene

MOST = 4  # drawings in one picture, one a quarter


def one_drawing(drawing: Drawing, number: int, held_out: bool) -> Image.Image:
    """A drawing, turned, scaled and moved a little; held-out ones have grounds of their own."""
    return draw(drawing.svg, rendering(drawing.code, number, held_out))


def some_of_a_kind(drawing: Drawing, count: int, rng: random.Random, held_out: bool) -> Image.Image:
    """`count` of one drawing, each in a quarter of its own."""
    import resvg_py

    ground = rng.choice(HELD_BACKGROUNDS if held_out else SEEN_BACKGROUNDS)
    picture = Image.new("RGB", (SIDE, SIDE), ground)
    half = SIDE // 2
    for quarter in rng.sample(range(MOST), count):
        side = round(half * rng.uniform(0.75, 0.95))
        data = resvg_py.svg_to_bytes(
            svg_path=str(drawing.svg), width=side, height=side, skip_system_fonts=True
        )
        ink = Image.open(io.BytesIO(data)).convert("RGBA")
        room = half - side
        corner = (
            half * (quarter % 2) + rng.randint(0, room),
            half * (quarter // 2) + rng.randint(0, room),
        )
        picture.paste(ink, corner, ink)
    return picture


def shapes(rng: random.Random) -> Scene:
    """A scene of one to three shapes, no two of which are the same shape."""
    while True:
        scene = make_scene(rng)
        if len({mark.shape for mark in scene.marks}) == len(scene.marks):
            return scene


def scene_picture(scene: Scene) -> Image.Image:
    """The scene at the size of the drawings."""
    return draw_scene(scene, SIDE)
