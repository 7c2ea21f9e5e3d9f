"""Plots of kept text against learned pictures: the methods at their best rates, and the sweeps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wings.eval.compare.bootstrap import Estimate
from wings.eval.report.style import COLOURS, DASHED, GROUND, SHAPES, STYLE

TITLES = {"text": "Text alone", "mixed": "Text after a picture"}
SMALL, LARGE = 35, 130  # marks, points squared
LEGEND_COLUMNS = 3


@dataclass(frozen=True)
class MethodCurve:
    """One method: marks joined by a line, growing from the first to the last.

    Attributes:
        number: of the method, which selects its colour and shape.
        name: in the legend.
        pictures: of each mark, percent answered.
        kept: of each mark, percent of the LLM's score, by test.
    """

    number: int
    name: str
    pictures: Sequence[Estimate]
    kept: Mapping[str, Sequence[Estimate]]


def plot(path: Path, curves: Sequence[MethodCurve], below: str, guess: float | None = None) -> None:
    """Writes a PNG of two panels, text alone and text after a picture.

    Args:
        path: of the PNG.
        curves: the methods; known 95% intervals are drawn as bars.
        below: label of the axis of pictures.
        guess: percent of pictures that need no look, drawn as a line.
    """
    with matplotlib.rc_context(STYLE):
        legend = 0.25 * math.ceil(len(curves) / LEGEND_COLUMNS) + 0.1  # inches
        height = 5.2 + legend
        figure = Figure(figsize=(11, height), facecolor=GROUND)
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        top, bottom = 1 - 0.45 / height, (legend + 0.7) / height
        figure.subplots_adjust(left=0.07, right=0.98, top=top, bottom=bottom, wspace=0.06)
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
            for curve in curves:
                draw_curve(axes, curve, curve.kept[test])
        panels[0].set_ylabel("right answers, the LLM's = 100")
        figure.supxlabel(below, x=0.525, y=(legend + 0.2) / height, fontsize=11)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="lower center", ncols=LEGEND_COLUMNS, frameon=False, fontsize=10,
            bbox_to_anchor=(0.525, 0.005),
        )  # fmt: skip
        figure.savefig(path, dpi=150)


def draw_curve(axes: Axes, curve: MethodCurve, kept: Sequence[Estimate]) -> None:
    """Draws a method's marks, their error bars and the line that joins them."""
    colour = COLOURS[curve.number % len(COLOURS)]
    # No two of the methods share both colour and shape.
    shape = SHAPES[(curve.number + 3 * (curve.number // len(COLOURS))) % len(SHAPES)]
    x, y = [e.value for e in curve.pictures], [e.value for e in kept]
    axes.plot(x, y, color=colour, alpha=0.5, linewidth=1.3, zorder=2)
    for across, up in zip(curve.pictures, kept, strict=True):
        bars = error_bar(across), error_bar(up)
        if None not in bars:
            axes.errorbar(
                across.value, up.value, xerr=bars[0], yerr=bars[1], color=colour,
                alpha=0.35, elinewidth=1.3, zorder=2,
            )  # fmt: skip
    large = LARGE * (1.8 if shape == "*" else 1.0)  # a star has a small area for its width
    step = (large - SMALL) / max(1, len(x) - 1)
    axes.scatter(
        x, y, marker=shape, color=colour, label=curve.name, edgecolor=GROUND, linewidth=1, zorder=4,
        s=[large - step * k for k in reversed(range(len(x)))], clip_on=False,
    )  # fmt: skip


def error_bar(estimate: Estimate) -> list[list[float]] | None:
    """Lengths of an error bar below and above; None where no interval is known."""
    if estimate.low is None or estimate.high is None:
        return None
    return [[estimate.value - estimate.low], [estimate.high - estimate.value]]
