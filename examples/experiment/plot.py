"""Plot of text after a picture against pictures, one mark a cell."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from wings.eval.compare.bootstrap import Estimate
from wings.eval.report.style import COLOURS, DASHED, GROUND, SHAPES, STYLE, draw_grid

# name, percent of pictures, text after a picture in percent of the LLM's
Mark = tuple[str, Estimate, Estimate]


def plot(path: Path, marks: Sequence[Mark], guess: float, wanted: float) -> None:
    """Writes a PNG.

    Args:
        path: of the PNG.
        marks: at most eight, with their 95% intervals.
        guess: percent of pictures that need no look, drawn as a line.
        wanted: percent of text that the primary comparison asks for, drawn as a line.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 7), facecolor=GROUND)
        axes = figure.subplots()
        figure.subplots_adjust(left=0.1, right=0.97, top=0.97, bottom=0.34)
        draw_grid(axes)
        axes.axhline(wanted, **DASHED, zorder=1)
        axes.axvline(guess, color="#9aa5b1", linewidth=1, linestyle=":", zorder=1)
        axes.text(
            guess, 0.02, " no look", color="#5f6b76", fontsize=9,
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip
        for n, (name, x, y) in enumerate(marks):
            bars = [error_bar(estimate) for estimate in (x, y)]
            axes.errorbar(
                x.value, y.value, xerr=bars[0], yerr=bars[1], color=COLOURS[n], label=name,
                marker=SHAPES[n], markersize=12 if SHAPES[n] == "*" else 8, linestyle="none",
                elinewidth=1.2, markeredgecolor=GROUND, zorder=3,
            )  # fmt: skip
        axes.set_xlabel("pictures answered (%)")
        axes.set_ylabel("text after a picture, right answers, the LLM's = 100")
        figure.legend(loc="lower center", ncols=2, frameon=False, fontsize=10)
        figure.savefig(path, dpi=130)


def error_bar(estimate: Estimate) -> list[list[float]] | None:
    """Lengths of an error bar below and above; None where no interval is known."""
    if estimate.low is None or estimate.high is None:
        return None
    return [[estimate.value - estimate.low], [estimate.high - estimate.value]]
