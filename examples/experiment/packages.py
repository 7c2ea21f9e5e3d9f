"""Unpacked packages that are no Python packages."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Packages:
    """Folders of unpacked packages; used when the data is made.

    Attributes:
        style: other drawings for the test of style, see `style.py`; None for no such test.
        flags: flags and facts about countries, see `flags.py`.
        stamps: photographs, see `photographs.py`.
    """

    style: Path | None = None
    flags: Path | None = None
    stamps: Path | None = None
