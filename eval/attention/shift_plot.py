"""Plots of the attention shift: curves over the blocks, and score against text accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wings.eval.report.style import GROUND, INK, STYLE, draw_grid, series_style
from wings.eval.scoring.accuracy import Accuracy
from wings.eval.senses import SEEN, EvalSense

from .shift import Curves, ModelShift, format_shift

LINES = {"before": ("#0b6fb8", "o", "-"), "after": ("#d1495b", "s", "-")}
REST = {
    "image": ("#5f6b76", "^", ":"),
    "audio": ("#8a939c", "D", ":"),
    "sink": ("#c3ccd5", "v", ":"),
}


def curves_figure(
    shift: ModelShift, title: str = "Attention over the blocks", narrow: bool = False
) -> Figure:
    """Plots attention on text before and after the items over the blocks, one panel a branch.

    Panels are side by side, or one below the other if `narrow`, for phones. A band is the middle
    half of the samples. Items, and the sink if it is counted apart, are grey. Masses of the main
    branch sum to 1, those of learners to the sum of their gates.
    """
    branches = shift.branches
    with matplotlib.rc_context(STYLE):
        shape = (len(branches), 1) if narrow else (1, len(branches))
        size = (4.4, 3.4 * shape[0] + 0.8) if narrow else (5.6 * shape[1] + 0.6, 4.6)
        figure = Figure(figsize=size, facecolor=GROUND)
        panels = figure.subplots(*shape, sharey=True, squeeze=False).flatten()
        figure.suptitle(title, x=0.02, ha="left", fontsize=14, fontweight="bold", color=INK)
        for axes, (name, curves) in zip(panels, branches.items(), strict=True):
            draw_curves(axes, shift.layers, curves)
            axes.set_title(f"{name}: shift {format_shift(curves)}", loc="left", fontsize=11)
        # After drawing: the panels share this axis, and setting one end fixes the other.
        panels[0].set_ylim(bottom=0)
        panels[0].set_ylabel("attention mass a token")
        handles, labels = panels[0].get_legend_handles_labels()
        columns, room = (2, 0.55 / size[1]) if narrow else (4, 0.07)
        figure.legend(handles, labels, loc="lower center", ncols=columns, frameon=False)
        figure.tight_layout(rect=(0, room, 1, 0.98))
    return figure


def draw_curves(axes: Axes, layers: Sequence[int], curves: Curves) -> None:
    """Draws the curves of one branch: means over samples."""
    draw_grid(axes)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("block")
    grey = {name: curves.masses[..., 2 + n] for n, name in enumerate(curves.senses)}
    if curves.sink == "apart":
        grey["sink"] = curves.masses[..., 0]
    text = {"before": curves.before, "after": curves.after}
    for lines, order in ((grey, 1), (text, 3)):
        for name, values in lines.items():
            colour, shape, dashes = (LINES | REST)[name]
            label = f"text {name}" if name in LINES else name
            axes.plot(
                layers,
                values.mean(0).tolist(),
                color=colour,
                linestyle=dashes,
                marker=shape,
                markersize=5,
                linewidth=2 if name in LINES else 1.4,
                zorder=order,
                label=label,
            )
            if name in LINES and len(values) > 1:
                low, high = (values.quantile(q, dim=0).tolist() for q in (0.25, 0.75))
                axes.fill_between(layers, low, high, color=colour, alpha=0.14, linewidth=0)


@dataclass(frozen=True)
class ShiftPoint:
    """One checkpoint of `score_figure`.

    Attributes:
        name: in the legend.
        shift: attention shift.
        interval: of the shift, 95%.
        text: accuracy on text; None if not measured.
        after: accuracy on text after an item; None if not measured.
    """

    name: str
    shift: float
    interval: tuple[float, float]
    text: Accuracy | None
    after: Accuracy | None = None


def score_figure(
    points: Sequence[ShiftPoint],
    title: str = "Attention shift and text",
    sense: EvalSense = SEEN,
) -> Figure:
    """Plots the shift of checkpoints against their text accuracy (Wings, figure 2).

    Text alone and text after an item of the sense have a panel each, if any point has them.
    """
    measured = {
        "text answered (%)": [point.text for point in points],
        f"text after {sense.one} answered (%)": [point.after for point in points],
    }
    panels = {label: values for label, values in measured.items() if any(values)}
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(1.6 + 5.8 * max(1, len(panels)), 4.8), facecolor=GROUND, layout="constrained"
        )
        drawn: dict[str, Any] = {}
        for axes, (label, values) in zip(
            figure.subplots(1, max(1, len(panels)), squeeze=False).flatten(),
            panels.items(),
            strict=False,
        ):
            draw_grid(axes)
            for n, (point, accuracy) in enumerate(zip(points, values, strict=True)):
                if accuracy is not None:
                    drawn.setdefault(point.name, _draw_point(axes, n, point, accuracy))
            axes.set_xlabel(f"attention shift (0: equal before and after a {sense.noun})")
            axes.set_ylabel(label)
        figure.suptitle(title, x=0.02, ha="left", fontsize=14, fontweight="bold", color=INK)
        figure.legend(
            [*drawn.values()], [*drawn], frameon=False, fontsize=9, loc="outside right center"
        )
    return figure


def _draw_point(axes: Axes, n: int, point: ShiftPoint, accuracy: Accuracy) -> PathCollection:
    """Draws the n-th point with its intervals; returns what a legend shows of it."""
    (low, high), (colour, shape, area) = point.interval, series_style(n)
    axes.errorbar(
        point.shift,
        accuracy.percent,
        xerr=[[max(0.0, point.shift - low)], [max(0.0, high - point.shift)]],
        yerr=accuracy.error_bar,
        color=colour,
        elinewidth=1.4,
        alpha=0.45,
    )
    return axes.scatter(
        [point.shift], [accuracy.percent], s=area, marker=shape, color=colour, edgecolor=GROUND,
        zorder=3,
    )  # fmt: skip
