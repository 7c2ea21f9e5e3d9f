"""Curves: ratio against length, one panel for each thing measured."""

import math
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from .row import BACKWARD, FLEX, MODELS, PLAIN, PRODUCTS, TEXTBOOK, WINGS, Row, in_order

INK, PALE, GROUND = "#1f2933", "#c3ccd5", "#ffffff"
# Distinct for colour-blind readers too (Okabe and Ito), and each has its own mark and dashes.
LOOKS: dict[str, dict[str, Any]] = {
    WINGS: {"color": "#0072b2", "marker": "o", "linestyle": "-", "linewidth": 2.4},
    PLAIN: {"color": "#56b4e9", "marker": "D", "linestyle": (0, (6, 2))},
    FLEX: {"color": "#009e73", "marker": "^", "linestyle": (0, (3, 2))},
    TEXTBOOK: {"color": "#d55e00", "marker": "s", "linestyle": (0, (1, 1.5))},
    PRODUCTS: {"color": "#5f6b76", "marker": "v", "linestyle": (0, (4, 1, 1, 1))},
}
FLOOR: dict[str, Any] = {"color": "#5f6b76", "linewidth": 1, "linestyle": (0, (1, 3))}
UNITY: dict[str, Any] = {"color": INK, "linewidth": 1, "linestyle": (0, (5, 4))}
STYLE: Any = {
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": PALE,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
TICKS = [n * 10**power for power in (-2, -1, 0, 1, 2, 3) for n in (1, 1.5, 2, 3, 5, 7)]


def draw(path: Path, rows: list[Row], title: str) -> None:
    """Writes a PNG of the rows of one shape; `title`: where and on what they were measured."""
    rows = [row for row in rows if row.variant in LOOKS and row.ratio is not None]
    batch = min(row.batch for row in rows)
    rows = [row for row in rows if row.batch == batch]
    what = in_order(rows)
    panels = [
        [name for name in what if name in MODELS],
        [name for name in what if name not in MODELS and not name.endswith(BACKWARD)],
        [name for name in what if name.endswith(BACKWARD)],
    ]
    panels = [line for line in panels if line]
    columns = max(3, *map(len, panels))
    height = 0.85 + 2.9 * len(panels)  # inches
    with matplotlib.rc_context(STYLE):
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
            "Lower is better; 1 is the thing named in each panel. Bars: quartiles of the rounds."
            f"  {batch} row{'s' * (batch > 1)} of a batch.",
            fontsize=10, color="#52606d",
        )  # fmt: skip
        present = [name for name in LOOKS if any(row.variant == name for row in rows)]
        handles = [Line2D([], [], label=name, **LOOKS[name]) for name in present]
        if any(row.floor for row in rows):
            handles.append(Line2D([], [], label="what arithmetic allows", **FLOOR))
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
    """Ratio against length, both in powers; the last point of each line says its number."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_axisbelow(True)
    axes.grid(color="#eef1f4", linewidth=1)
    axes.tick_params(length=0)
    axes.axhline(1.0, **UNITY, zorder=1)
    axes.set_title(f"{what}\n", loc="left", fontsize=11, fontweight="bold")
    axes.text(
        0, 1.03, f"in units of {rows[0].baseline}", transform=axes.transAxes, fontsize=9.5,
        color="#52606d",
    )  # fmt: skip
    floors = sorted({(row.length, row.floor) for row in rows if row.floor})
    if floors:
        axes.plot(*zip(*floors, strict=True), **FLOOR, zorder=2)
    ends: list[tuple[float, int, str]] = []
    for name, look in LOOKS.items():
        line = sorted(
            (row.length, *row.spread) for row in rows if row.variant == name and row.spread
        )
        if not line:
            continue
        lengths, ratios = [point[0] for point in line], [point[2] for point in line]
        below = [max(ratio - low, 0) for _, low, ratio, _ in line]
        above = [max(high - ratio, 0) for _, _, ratio, high in line]
        axes.errorbar(
            lengths, ratios, yerr=[below, above], markersize=6, markeredgecolor=GROUND, **look
        )
        ends.append((ratios[-1], lengths[-1], look["color"]))
    numbers = [ratio for ratio, *_ in ends] + [floor for _, floor in floors] + [1.0]
    low, high = min(numbers) / 1.12, max(numbers) * 1.12
    axes.set_ylim(low, high)
    write_ends(axes, ends, math.log(high / low))
    wide = high / low > 12
    ticks = [tick for tick in TICKS if not wide or f"{tick:e}"[0:3] in ("1.0", "3.0")]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    lengths = sorted({row.length for row in rows})
    axes.set_xlim(lengths[0] / 1.15, lengths[-1] * 1.5)
    axes.xaxis.set_major_locator(FixedLocator(lengths))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("tokens", fontsize=10)


def write_ends(axes: Axes, ends: list[tuple[float, int, str]], height: float) -> None:
    """The last ratio of each line behind its end, pushed up where two would overlap.

    `height`: of the axis, as the logarithm of its ends' ratio.
    """
    lowest = -math.inf
    for ratio, length, colour in sorted(ends):
        at = max(math.log(ratio), lowest)
        lowest = at + 0.085 * height
        axes.annotate(
            f"{ratio:.2f}", (length, math.exp(at)), xytext=(7, 0), textcoords="offset points",
            va="center", fontsize=9.5, color=colour,
        )  # fmt: skip
