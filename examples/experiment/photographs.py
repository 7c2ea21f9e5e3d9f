"""Photographs with captions, from Debian's package `tuxpaint-stamps-default` (GPL-2).

`apt-get download tuxpaint-stamps-default && dpkg-deb -x tuxpaint-stamps-default_*.deb stamps` gives
the folder `stamps`. Each picture has a caption in English, such as "A great blue heron.", and no
background. Drawings among the pictures are left out by their folders and by their few colours.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from wings.errors import WingsError
from wings.examples.drawings import Drawing

from .gallery import Gallery

GET = (
    "run: apt-get download tuxpaint-stamps-default && dpkg-deb -x"
    " tuxpaint-stamps-default_*.deb stamps"
)
INSIDE = Path("usr", "share", "tuxpaint", "stamps")
# group -> its folder
GROUPS = {
    "mammal": "animals/mammals", "bird": "animals/birds", "fruit": "food/fruit",
    "vegetable": "food/vegetables", "flower": "plants/flowers", "tool": "household",
    "vehicle": "vehicles", "instrument": "hobbies/music", "sport": "sports",
}  # fmt: skip
CAPTION = re.compile(r"^An? ((?:[A-Za-z]+[ -]){0,2}[a-z]+)\.$")
OPAQUE = 200  # alpha above which a pixel counts
FEWEST_PIXELS, SHORTEST_SIDE = 1000, 48
# In a drawing, few colours have most pixels: a photograph's eight commonest have less than this.
COMMON_COLOURS, COMMON_SHARE = 8, 0.2
NAMED_LIMIT = 12  # photographs of a group that are asked for by name


@dataclass(frozen=True)
class Photograph(Drawing):
    """A photograph without background; `code` is its path, `name` is from its caption."""

    file: Path

    def raster(self, side: int) -> Image.Image:
        """The photograph as RGBA, in the middle of a transparent square of `side` pixels."""
        picture = Image.open(self.file).convert("RGBA")
        scale = side / max(picture.size)
        width, height = (max(1, round(scale * length)) for length in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        square = Image.new("RGBA", (side, side))
        square.paste(picture, ((side - width) // 2, (side - height) // 2))
        return square


class PhotographGallery(Gallery):
    """A gallery without scenes, whose pictures are all photographs."""

    captions = ("name", "name", "name", "name", "name", "count")
    trained = ("name", "group", "count", "pair")
    followed = ("count",)
    before = ("name", "count")


def read_photographs(package: Path | None) -> list[Photograph]:
    """Every usable photograph, by group and path.

    Args:
        package: the unpacked package.

    Raises:
        WingsError: the package is not given, or has no photographs (how to get it).
    """
    if package is None:
        raise WingsError(f"--stamps is missing, and this study asks for photographs; {GET}.")
    root = package / INSIDE if (package / INSIDE).is_dir() else package
    found = [photograph for group in GROUPS for photograph in _of_group(root, group)]
    if not found:
        raise WingsError(f"--stamps: {package} has no photographs with captions; {GET}.")
    return found


def _of_group(root: Path, group: str) -> Iterator[Photograph]:
    for path in sorted((root / GROUPS[group]).rglob("*.png")):
        caption = path.with_suffix(".txt")
        if "cartoon" in path.relative_to(root).parts or not caption.exists():
            continue
        # The English caption is the first line, before those in other languages.
        match = CAPTION.match(caption.read_text(encoding="utf-8").split("\n")[0].strip())
        if match and is_photograph(path):
            code = path.relative_to(root).with_suffix("").as_posix()
            yield Photograph(code, match[1].lower(), group, path)


def is_photograph(path: Path) -> bool:
    """Returns whether a picture is large enough and has as many colours as a photograph."""
    picture = Image.open(path).convert("RGBA")
    pixels = np.asarray(picture)
    seen = pixels[pixels[..., 3] > OPAQUE][:, :3]
    if min(picture.size) < SHORTEST_SIDE or len(seen) < FEWEST_PIXELS:
        return False
    # 64 levels of each channel, so that noise makes no colour of its own.
    _, counts = np.unique(seen >> 2, axis=0, return_counts=True)
    return np.sort(counts)[-COMMON_COLOURS:].sum() / len(seen) < COMMON_SHARE


def asked_by_name(photographs: Sequence[Drawing]) -> list[Drawing]:
    """The first photographs of each group, each with another name."""
    chosen: dict[str, dict[str, Drawing]] = {}
    for photograph in photographs:
        of_group = chosen.setdefault(photograph.group, {})
        if len(of_group) < NAMED_LIMIT:
            of_group.setdefault(photograph.name, photograph)
    return [photograph for of_group in chosen.values() for photograph in of_group.values()]
