"""The studies: each has a question, cells, pictures and a page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from wings.examples.drawings import DESCRIBED, catalogue, named, split

from .cells import CHEAP, FIRST, Cell
from .cheap_page import CHEAP_PAGE, write_cheap_page
from .experiment_page import PAGE_FILES, write_page
from .flags import read_flags
from .gallery import Gallery
from .packages import Packages
from .photographs import PhotographGallery, asked_by_name, read_photographs
from .photographs_page import PHOTOGRAPHS, PHOTOGRAPHS_PAGE, write_photographs_page
from .runs import RunResult
from .size import ExperimentSize
from .style import redrawn
from .turns import TurnsGallery
from .turns_page import KEPT, TURNS, TURNS_PAGE, write_turns_page

SEED = 17  # of the drawings' split: another than that of `wings emoji`


class PageWriter(Protocol):
    """Writes the page of a study into a folder of results."""

    def __call__(self, folder: Path, results: Sequence[RunResult], size: ExperimentSize) -> None:
        """Writes it from the finished runs."""


@dataclass(frozen=True)
class Study:
    """One question.

    Attributes:
        name: of `--study`.
        cells: that are run if none are named.
        gallery: makes the pictures of its data in a folder.
        write_page: writes its page.
        pages: the files that this writes.
        inside: a folder of its own in the folders of the experiment; "" for the experiment's.
        size: of its data.
        kept: the file with scores of checkpoints that other studies kept; "" for none.
    """

    name: str
    cells: Sequence[Cell]
    gallery: Callable[[Path, Packages], Gallery]
    write_page: PageWriter
    pages: Sequence[str]
    inside: str = ""
    size: ExperimentSize = field(default_factory=ExperimentSize)
    kept: str = ""


def gallery_of_drawings(folder: Path, packages: Packages) -> Gallery:
    """OpenMoji's drawings, and those of the style test."""
    parts = split([d for d in catalogue() if d.group not in DESCRIBED], SEED)
    names = named(parts["train"])
    style = packages.style
    return Gallery(folder, parts, names, redrawn(names, style, folder / "style") if style else ())


def gallery_of_turns(folder: Path, packages: Packages) -> Gallery:
    """OpenMoji's drawings and flags."""
    drawings = gallery_of_drawings(folder, Packages())
    return TurnsGallery(folder, drawings.parts, drawings.names, read_flags(packages.flags))


def gallery_of_photographs(folder: Path, packages: Packages) -> Gallery:
    """Photographs."""
    parts = split(read_photographs(packages.stamps), SEED)
    return PhotographGallery(folder, parts, asked_by_name(parts["train"]))


STAGES = Study("stages", FIRST, gallery_of_drawings, write_page, PAGE_FILES)
# Shares data, stage 1 and runs with `stages`.
WHAT_IS_CHEAP = Study("cheap", CHEAP, gallery_of_drawings, write_cheap_page, (CHEAP_PAGE,))
NEED_BOTH = Study(
    "turns", TURNS, gallery_of_turns, write_turns_page, (TURNS_PAGE,), "turns",
    ExperimentSize(
        pictures={
            "name": (10, 100), "group": (10, 50), "count": (10, 50), "scene": (10, 50),
            "pair": (10, 50), "flag": (10, 100),
        },
        blank=100,
    ),
    KEPT,
)  # fmt: skip
OF_PHOTOGRAPHS = Study(
    "photographs", PHOTOGRAPHS, gallery_of_photographs, write_photographs_page,
    (PHOTOGRAPHS_PAGE,), "photographs",
    ExperimentSize(
        pictures={"name": (40, 200), "group": (40, 150), "count": (40, 150), "pair": (40, 150)}
    ),
)  # fmt: skip
STUDIES = {s.name: s for s in (STAGES, WHAT_IS_CHEAP, NEED_BOTH, OF_PHOTOGRAPHS)}
