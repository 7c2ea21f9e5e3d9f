"""One part of a report: a title, a sentence, a table and perhaps a plot."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Section:
    """What a measurement shows of itself.

    Attributes:
        title: a few words.
        sentence: what the figures are and how they came to be.
        rows: the table, its headers first; empty for none.
        figure: narrow enough to be read on a phone (4 inches).
    """

    title: str
    sentence: str
    rows: Sequence[Sequence[str]] = ()
    figure: Figure | None = None
