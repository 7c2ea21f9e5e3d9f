"""The studies: each has a question, cells, pictures and a page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from wings.examples.drawings import DESCRIBED, catalogue, named, split

from .cells import FIRST, Cell
from .experiment_page import PAGE_FILES, write_page
from .gallery import Gallery
from .packages import Packages
from .runs import RunResult
from .size import ExperimentSize
from .style import redrawn

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
    """

    name: str
    cells: Sequence[Cell]
    gallery: Callable[[Path, Packages], Gallery]
    write_page: PageWriter
    pages: Sequence[str]
    inside: str = ""
    size: ExperimentSize = field(default_factory=ExperimentSize)


def gallery_of_drawings(folder: Path, packages: Packages) -> Gallery:
    """OpenMoji's drawings, and those of the style test."""
    parts = split([d for d in catalogue() if d.group not in DESCRIBED], SEED)
    names = named(parts["train"])
    style = packages.style
    return Gallery(folder, parts, names, redrawn(names, style, folder / "style") if style else ())


STAGES = Study("stages", FIRST, gallery_of_drawings, write_page, PAGE_FILES)
STUDIES = {study.name: study for study in (STAGES,)}
