"""Draws an SVG as a picture that differs from time to time: background, size, place and a small
turn.

Everything follows from the drawing's code and the rendering's number, so any machine draws the
same set.
"""

import io
import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

SIDE = 224
# Backgrounds of the renderings that are trained on, and of those held out: no colour is in both.
SEEN_BACKGROUNDS = ("#ffffff", "#dfe7f5", "#f5ead0", "#dff0dc", "#ecdff2", "#c9c9c9")
HELD_BACKGROUNDS = ("#f7d9d4", "#cfeef0", "#e4e0b0")


@dataclass(frozen=True)
class Rendering:
    """How one picture of a drawing looks: colour, share of the side it fills, shift in pixels,
    degrees.
    """

    background: str
    scale: float
    shift: tuple[int, int]
    angle: float


def rendering(code: str, number: int, held_out: bool) -> Rendering:
    """The look of rendering `number` of the drawing `code`."""
    chance = random.Random(f"{code}/{number}/{held_out}")
    scale = chance.uniform(0.7, 0.98)
    room = int(SIDE * (1 - scale) / 2)
    return Rendering(
        background=chance.choice(HELD_BACKGROUNDS if held_out else SEEN_BACKGROUNDS),
        scale=scale,
        shift=(chance.randint(-room, room), chance.randint(-room, room)),
        angle=chance.uniform(-10, 10),
    )


def draw(svg: Path, look: Rendering) -> Image.Image:
    """The drawing as an RGB picture of 224 x 224 pixels."""
    import resvg_py

    size = round(SIDE * look.scale)
    # No text is drawn, and looking through the system's fonts takes longer than the drawing.
    data = resvg_py.svg_to_bytes(svg_path=str(svg), width=size, height=size, skip_system_fonts=True)
    ink = Image.open(io.BytesIO(data)).convert("RGBA")
    ink = ink.rotate(look.angle, resample=Image.Resampling.BICUBIC)
    picture = Image.new("RGB", (SIDE, SIDE), look.background)
    across, down = look.shift
    corner = (SIDE - size) // 2
    picture.paste(ink, (corner + across, corner + down), ink)
    return picture
