"""Colours and matplotlib settings that all plots share."""

from typing import Any

from matplotlib.axes import Axes

INK, PALE, GROUND, GRID = "#1f2933", "#c3ccd5", "#ffffff", "#eef1f4"
# Distinct for colour-blind readers; each series also has its own marker.
COLOURS = ("#0b6fb8", "#56b4e9", "#d1495b", "#e69f00", "#5f6b76", "#8a5cb8", "#2a9d74", "#b07d3c")
SHAPES = ("*", "D", "s", "o", "^", "v", "P", "X")
# A reference line.
DASHED: dict[str, Any] = {"color": INK, "linewidth": 1, "linestyle": (0, (5, 4))}
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


def draw_grid(axes: Axes, axis: Any = "both") -> None:
    """Draws a pale grid behind the data and removes the ticks."""
    axes.set_axisbelow(True)
    axes.grid(axis=axis, color=GRID, linewidth=1)
    axes.tick_params(length=0)


def series_style(n: int) -> tuple[str, str, int]:
    """Colour, marker and marker area (points squared) of the n-th series."""
    shape = SHAPES[n % len(SHAPES)]
    return COLOURS[n % len(COLOURS)], shape, 230 if shape == "*" else 95
