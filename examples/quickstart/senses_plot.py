"""The plot of `wings quickstart --audio`: what each model answers, with one sense and with two."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from wings.eval.report.style import GROUND, INK, STYLE, draw_grid, series_style
from wings.eval.scoring.accuracy import Accuracy

SPREAD = 0.62  # of a row's height, over which its markers are


def plot_senses(
    path: Path,
    models: Mapping[str, Mapping[str, Accuracy]],
    rules: Mapping[str, Mapping[str, Accuracy]],
    alone: Mapping[str, Accuracy],
    title: str,
) -> None:
    """Writes a PNG of two panels: rows of questions, percent answered to the right.

    Args:
        path: of the PNG.
        models: model -> row -> accuracy, for the left panel; a model without a row cannot be asked.
        rules: rule -> row -> accuracy, for the right panel.
        alone: row -> accuracy where there is only one of the two senses; a line on the right.
        title: one line above.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12.4, 5.9), facecolor=GROUND)
        left, right = figure.subplots(1, 2, sharex=True)
        figure.subplots_adjust(left=0.155, right=0.985, top=0.82, bottom=0.2, wspace=0.46)
        figure.text(0.02, 0.94, title, fontsize=15, fontweight="bold")
        figure.text(
            0.02, 0.895, "Percent of held-out questions answered. Bars: 95% intervals.",
            fontsize=10.5, color="#52606d",
        )  # fmt: skip
        draw_rows(left, list(models["both"]), models, 0)
        left.set_title("At most one sense before the question", loc="left", fontsize=12)
        draw_rows(right, list(alone), rules, len(models))
        right.set_title("A picture and a sound, by rule", loc="left", fontsize=12)
        for n, accuracy in enumerate(alone.values()):
            right.plot([accuracy.percent] * 2, [n - 0.4, n + 0.4], color=INK, linewidth=1.2)
        right.plot([], [], color=INK, linewidth=1.2, label="one alone")
        for axes in (left, right):
            axes.set_xlim(-2, 103)
            axes.set_xlabel("answered (%)")
            axes.legend(
                loc="upper center", bbox_to_anchor=(0.36, -0.13), ncols=5, frameon=False,
                handletextpad=0.4, columnspacing=1.1, handlelength=1.4,
            )  # fmt: skip
        figure.savefig(path, dpi=160)


def draw_rows(
    axes: Axes,
    rows: Sequence[str],
    series: Mapping[str, Mapping[str, Accuracy]],
    first_style: int,
) -> None:
    """Draws one line of markers a row, the first row on top, and a legend entry a series."""
    draw_grid(axes, "x")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    for n, (name, accuracies) in enumerate(series.items()):
        colour, shape, area = series_style(first_style + n)
        offset = SPREAD * ((n + 0.5) / len(series) - 0.5)
        for y, row in enumerate(rows):
            if row in accuracies:
                accuracy = accuracies[row]
                axes.errorbar(
                    accuracy.percent, y + offset, xerr=accuracy.error_bar, color=colour,
                    elinewidth=1.4, alpha=0.45, zorder=2,
                )  # fmt: skip
                axes.scatter(
                    [accuracy.percent], [y + offset], s=0.6 * area, marker=shape, color=colour,
                    edgecolor=GROUND, linewidth=1, zorder=3, clip_on=False,
                )  # fmt: skip
        axes.add_line(
            Line2D([], [], linestyle="", marker=shape, markersize=8, color=colour, label=name)
        )
