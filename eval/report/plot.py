"""The plot of a report: text kept, alone and after a picture, against pictures learned."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from wings.eval.compare.method_result import MethodResult
from wings.eval.scoring.accuracy import Accuracy

INK, PALE, GROUND = "#1f2933", "#c3ccd5", "#ffffff"
# Distinct for colour-blind readers too, and each row has its own shape besides.
COLOURS = ("#0b6fb8", "#56b4e9", "#d1495b", "#e69f00", "#5f6b76", "#8a5cb8", "#2a9d74", "#b07d3c")
SHAPES = ("*", "D", "s", "o", "^", "v", "P", "X")
BEFORE: dict[str, Any] = {"color": INK, "linewidth": 1, "linestyle": (0, (5, 4))}
STYLE: Any = {
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": PALE,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def plot(path: str | Path, before: Accuracy, outcomes: Sequence[MethodResult], title: str) -> None:
    """Writes a PNG of two panels: text asked alone, and text asked after a picture.

    Args:
        path: where to.
        before: the language model on text before it saw a picture, a dashed line in both panels.
        outcomes: one mark each, with the 95% intervals of both its scores.
        title: one line above.
    """
    with matplotlib.rc_context(STYLE):
        legend = 0.2 + 0.27 * math.ceil((len(outcomes) + 1) / 2)  # inches
        height = 5.05 + legend
        figure = Figure(figsize=(10.4, height), facecolor=GROUND)
        left, right = figure.subplots(1, 2, sharex=True, sharey=True)
        figure.subplots_adjust(
            left=0.075,
            right=0.98,
            top=1 - 1.2 / height,
            bottom=(legend + 0.8) / height,
            wspace=0.08,
        )
        figure.text(0.075, 1 - 0.33 / height, title, fontsize=15, fontweight="bold")
        figure.text(
            0.075,
            1 - 0.63 / height,
            "Up: text kept.  Right: pictures learned.  The best place is the upper right corner."
            "  ProgressBars: 95% intervals.",
            fontsize=10.5,
            color="#52606d",
        )
        for axes, name in ((left, "text"), (right, "mixed")):
            draw_panel(axes, before, outcomes, name)
        left.set_title("Text questions alone", loc="left", fontsize=12)
        right.set_title("Text questions after a picture", loc="left", fontsize=12)
        left.set_ylabel("text answered (%)")
        figure.supxlabel(
            "pictures answered (%)", x=0.527, y=(legend + 0.22) / height, fontsize=11, color=INK
        )
        line = Line2D([], [], **BEFORE, label="the language model before any picture")
        figure.legend(
            handles=[*(legend_entry(n, outcome) for n, outcome in enumerate(outcomes)), line],
            loc="lower center",
            bbox_to_anchor=(0.527, 0.012),
            ncols=2,
            frameon=False,
            handletextpad=0.6,
            columnspacing=2.5,
            labelspacing=0.55,
        )
        figure.savefig(path, dpi=180)


def draw_panel(axes: Axes, before: Accuracy, outcomes: Sequence[MethodResult], name: str) -> None:
    """Marks of all outcomes; `name`: the score that goes up, "text" or "mixed"."""
    axes.set_axisbelow(True)
    axes.grid(color="#eef1f4", linewidth=1)
    axes.tick_params(length=0)
    axes.axhline(before.percent, **BEFORE, zorder=1)
    for n, outcome in enumerate(outcomes):
        kept = outcome.text if name == "text" else outcome.mixed
        x, y = outcome.pictures.percent, kept.percent
        axes.errorbar(
            x,
            y,
            xerr=reach(outcome.pictures),
            yerr=reach(kept),
            color=COLOURS[n % len(COLOURS)],
            elinewidth=1.4,
            alpha=0.45,
            zorder=2,
        )
        axes.scatter(
            [x],
            [y],
            s=230 if SHAPES[n % len(SHAPES)] == "*" else 95,
            marker=SHAPES[n % len(SHAPES)],
            color=COLOURS[n % len(COLOURS)],
            edgecolor=GROUND,
            linewidth=1.2,
            zorder=4 - n / 10,  # what comes first in the table is never hidden
            clip_on=False,
        )
    every = [s for o in outcomes for s in (o.text, o.mixed)] + [before]
    axes.set_ylim(floor(min(s.interval[0] for s in every)), 102)
    axes.set_xlim(floor(min(o.pictures.interval[0] for o in outcomes)), 102)


def legend_entry(n: int, outcome: MethodResult) -> Line2D:
    """The legend's entry of the n-th outcome."""
    return Line2D(
        [],
        [],
        linestyle="",
        marker=SHAPES[n % len(SHAPES)],
        markersize=14 if SHAPES[n % len(SHAPES)] == "*" else 9,
        color=COLOURS[n % len(COLOURS)],
        markeredgecolor=GROUND,
        label=outcome.title,
    )


def reach(score: Accuracy) -> list[list[float]]:
    """Lengths of an error bar below and above."""
    low, high = score.interval
    # Rounding may put an end of the interval on the wrong side of 0 or 100.
    return [[max(0.0, score.percent - low)], [max(0.0, high - score.percent)]]


def floor(percent: float) -> float:
    """The axis begins at the ten below, with some air."""
    return max(0.0, percent // 10 * 10 - 1)
