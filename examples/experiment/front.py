"""The plots of kept text against learned pictures: what a user chooses from, and the sweeps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from wings.eval.compare.bootstrap import Estimate
from wings.eval.report.style import COLOURS, DASHED, GROUND, SHAPES, STYLE

TITLES = {"text": "Text alone", "mixed": "Text after a picture"}
SMALL, LARGE = 35, 130  # marks, points squared
COLUMNS = 3  # of the legend


@dataclass(frozen=True)
class Series:
    """One method: marks that a line joins, growing from the first to the last.

    Attributes:
        number: of the method, which decides its look.
        name: in the legend.
        pictures: of each mark, percent answered.
        kept: of each mark, percent of what the LLM answered, by test.
    """

    number: int
    name: str
    pictures: Sequence[Estimate]
    kept: Mapping[str, Sequence[Estimate]]


def plot(path: Path, series: Sequence[Series], below: str, guess: float | None = None) -> None:
    """Two panels, text alone and text after a picture; bars are 95% intervals where known.

    Args:
        path: of the PNG.
        series: the methods.
        below: what the axis of pictures says.
        guess: percent of pictures that need no look, if it is to be drawn.
    """
    with matplotlib.rc_context(STYLE):
        legend = 0.25 * math.ceil(len(series) / COLUMNS) + 0.1  # inches
        height = 5.2 + legend
        canvas = Canvas(figsize=(11, height), facecolor=GROUND)
        panels = canvas.subplots(1, 2, sharex=True, sharey=True)
        canvas.subplots_adjust(
            left=0.07,
            right=0.98,
            top=1 - 0.45 / height,
            bottom=(legend + 0.7) / height,
            wspace=0.06,
        )
        for axes, test in zip(panels, TITLES, strict=True):
            axes.set_title(TITLES[test], loc="left", fontsize=12)
            axes.set_axisbelow(True)
            axes.grid(color="#eef1f4", linewidth=1)
            axes.tick_params(length=0)
            axes.axhline(100, **DASHED, zorder=1)
            if guess is not None:
                axes.axvline(guess, color="#9aa5b1", linewidth=1, linestyle=":", zorder=1)
                across = axes.get_xaxis_transform()  # x as plotted, y a share of the panel
                axes.text(guess, 0.02, " no look", color="#5f6b76", fontsize=9, transform=across)
            for one in series:
                draw(axes, one, one.kept[test])
        panels[0].set_ylabel("right answers, the LLM's = 100")
        canvas.supxlabel(below, x=0.525, y=(legend + 0.2) / height, fontsize=11)
        handles, labels = panels[0].get_legend_handles_labels()
        canvas.legend(
            handles, labels, loc="lower center", ncols=COLUMNS, frameon=False, fontsize=10,
            bbox_to_anchor=(0.525, 0.005),
        )  # fmt: skip
        canvas.savefig(path, dpi=150)


def draw(axes: Axes, one: Series, kept: Sequence[Estimate]) -> None:
    """A method's marks and what joins them."""
    colour = COLOURS[one.number % len(COLOURS)]
    # No two of the methods share both colour and shape.
    shape = SHAPES[(one.number + 3 * (one.number // len(COLOURS))) % len(SHAPES)]
    x, y = [e.value for e in one.pictures], [e.value for e in kept]
    axes.plot(x, y, color=colour, alpha=0.5, linewidth=1.3, zorder=2)
    for across, up in zip(one.pictures, kept, strict=True):
        reaches = reach(across), reach(up)
        if None not in reaches:
            axes.errorbar(
                across.value, up.value, xerr=reaches[0], yerr=reaches[1], color=colour,
                alpha=0.35, elinewidth=1.3, zorder=2,
            )  # fmt: skip
    large = LARGE * (1.8 if shape == "*" else 1.0)  # a star has little inside
    step = (large - SMALL) / max(1, len(x) - 1)
    axes.scatter(
        x, y, marker=shape, color=colour, label=one.name, edgecolor=GROUND, linewidth=1, zorder=4,
        s=[large - step * k for k in reversed(range(len(x)))], clip_on=False,
    )  # fmt: skip


def reach(estimate: Estimate) -> list[list[float]] | None:
    """Lengths of an error bar below and above; None where no interval is known."""
    if estimate.low is None or estimate.high is None:
        return None
    return [[estimate.value - estimate.low], [estimate.high - estimate.value]]
