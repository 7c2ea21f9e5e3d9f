"""Curves of a run: ratio against length, one plot for each shape."""

import math
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from .environment import slug
from .run import BACKWARD, DESCRIPTORS, FLEX, MODELS, PLAIN, TEXTBOOK, WINGS, Row, Run
from .tables import ORDER

INK, PALE, GROUND, MUTED = "#1f2933", "#c3ccd5", "#ffffff", "#52606d"
# Colours that colour-blind readers can distinguish (Okabe and Ito), with marks and dashes.
STYLES: dict[str, dict[str, Any]] = {
    WINGS: {"color": "#0072b2", "marker": "o", "linestyle": "-", "linewidth": 2.4},
    PLAIN: {"color": "#56b4e9", "marker": "D", "linestyle": (0, (6, 2))},
    DESCRIPTORS: {"color": "#cc79a7", "marker": "v", "linestyle": (0, (8, 2, 1, 2))},
    FLEX: {"color": "#009e73", "marker": "^", "linestyle": (0, (3, 2))},
    TEXTBOOK: {"color": "#d55e00", "marker": "s", "linestyle": (0, (1, 1.5))},
}
FLOOR: dict[str, Any] = {"color": "#5f6b76", "linewidth": 1, "linestyle": (0, (1, 3))}
UNITY: dict[str, Any] = {"color": INK, "linewidth": 1, "linestyle": (0, (5, 4))}
RC: Any = {
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": PALE,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
TICKS = [n * 10**power for power in (-2, -1, 0, 1, 2, 3) for n in (1, 1.5, 2, 3, 5, 7)]


def curve_names(run: Run) -> dict[str, str]:
    """File of the curves of each shape that has any: `curves.png`, or `curves-d4096.png`."""
    shapes = [shape.name for shape in run.preset.shapes]
    drawn = {row.shape for row in run.rows if row.ratio is not None and row.variant in STYLES}
    return {
        shape: "curves.png" if len(shapes) == 1 else f"curves-{slug(shape)}.png"
        for shape in shapes
        if shape in drawn
    }


def draw_curves(folder: Path, run: Run, where: dict[str, Any]) -> None:
    """Writes one PNG for each shape that has ratios."""
    dtype = str(run.preset.dtype).removeprefix("torch.")
    for shape, name in curve_names(run).items():
        rows = [row for row in run.rows if row.shape == shape]
        draw(folder / name, rows, f"{shape}, {dtype}, on {where['device']}")


def draw(path: Path, rows: list[Row], title: str) -> None:
    """Writes a PNG of the rows of one shape: ratio against length, a panel for each thing."""
    rows = [row for row in rows if row.variant in STYLES and row.ratio is not None]
    batch = min(row.batch for row in rows)
    rows = [row for row in rows if row.batch == batch]
    present = {row.what for row in rows}
    operations = [what for what in ORDER if what in present and what not in MODELS]
    panels = [
        [what for what in MODELS if what in present],
        [what for what in operations if not what.endswith(BACKWARD)],
        [what for what in operations if what.endswith(BACKWARD)],
    ]
    panels = [line for line in panels if line]
    columns = max(3, *map(len, panels))
    height = 0.85 + 2.9 * len(panels)  # inches
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(3.45 * columns + 0.3, height), facecolor=GROUND)
        grid = figure.subplots(len(panels), columns, squeeze=False)
        for line, names in zip(grid, panels, strict=True):
            for axes, name in zip(line, names, strict=False):
                draw_panel(axes, [row for row in rows if row.what == name], name)
            for axes in line[len(names) :]:
                axes.set_visible(False)
        figure.text(0.012, 1 - 0.3 / height, title, fontsize=13, fontweight="bold")
        figure.text(
            0.012, 1 - 0.56 / height,
            "Lower is better; 1 is the baseline of each panel. Bars: quartiles of the rounds. "
            f"Batch size {batch}.",
            fontsize=10, color=MUTED,
        )  # fmt: skip
        handles = [
            Line2D([], [], label=name, **style)
            for name, style in STYLES.items()
            if any(row.variant == name for row in rows)
        ]
        if any(row.floor for row in rows):
            handles.append(Line2D([], [], label="floor", **FLOOR))
        figure.legend(
            handles=handles, loc="upper right", ncols=len(handles), frameon=False,
            bbox_to_anchor=(0.995, 1 - 0.05 / height), fontsize=10,
        )  # fmt: skip
        figure.subplots_adjust(
            left=0.045, right=0.985, top=1 - 1.2 / height, bottom=0.55 / height, wspace=0.24,
            hspace=0.48,
        )  # fmt: skip
        figure.savefig(path, dpi=160)


def draw_panel(axes: Axes, rows: list[Row], what: str) -> None:
    """Ratio against length on logarithmic axes, with the last ratio of each line as a number."""
    axes.set(xscale="log", yscale="log", axisbelow=True)
    axes.set_xscale("log", base=2)
    axes.grid(color="#eef1f4", linewidth=1)
    axes.tick_params(length=0)
    axes.axhline(1.0, **UNITY, zorder=1)
    axes.set_title(f"{what}\n", loc="left", fontsize=11, fontweight="bold")
    axes.text(
        0, 1.03, f"in units of {rows[0].baseline}", transform=axes.transAxes, fontsize=9.5,
        color=MUTED,
    )  # fmt: skip
    floors = sorted({(row.length, row.floor) for row in rows if row.floor})
    if floors:
        axes.plot(*zip(*floors, strict=True), **FLOOR, zorder=2)
    ends: list[tuple[float, int, str]] = []
    for name, style in STYLES.items():
        line = sorted(
            (row.length, row.ratio, row.low, row.high)
            for row in rows
            if row.variant == name and None not in (row.ratio, row.low, row.high)
        )
        if not line:
            continue
        lengths, ratios, lows, highs = map(list, zip(*line, strict=True))
        below = [max(ratio - low, 0) for ratio, low in zip(ratios, lows, strict=True)]
        above = [max(high - ratio, 0) for ratio, high in zip(ratios, highs, strict=True)]
        axes.errorbar(
            lengths, ratios, yerr=[below, above], markersize=6, markeredgecolor=GROUND, **style
        )
        ends.append((ratios[-1], lengths[-1], style["color"]))
    numbers = [ratio for ratio, *_ in ends] + [floor for _, floor in floors] + [1.0]
    low, high = min(numbers) / 1.12, max(numbers) * 1.12
    axes.set_ylim(low, high)
    # Numbers that would overlap are moved up.
    lowest = -math.inf
    for ratio, length, colour in sorted(ends):
        at = max(math.log(ratio), lowest)
        lowest = at + 0.085 * math.log(high / low)
        axes.annotate(
            f"{ratio:.2f}", (length, math.exp(at)), xytext=(7, 0), textcoords="offset points",
            va="center", fontsize=9.5, color=colour,
        )  # fmt: skip
    wide = high / low > 12
    ticks = [tick for tick in TICKS if not wide or f"{tick:e}"[0:3] in ("1.0", "3.0")]
    lengths = sorted({row.length for row in rows})
    axes.set_xlim(lengths[0] / 1.15, lengths[-1] * 1.5)
    axes.set_xlabel("tokens", fontsize=10)
    for axis, places, form in ((axes.yaxis, ticks, "g"), (axes.xaxis, lengths, ",.0f")):
        axis.set_major_locator(FixedLocator(places))
        axis.set_major_formatter(FuncFormatter(lambda number, _, form=form: f"{number:{form}}"))
        axis.set_minor_locator(NullLocator())
