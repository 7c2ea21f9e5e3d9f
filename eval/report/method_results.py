"""Results of several training methods: a table and a plot of text kept against pictures learned."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from wings.eval.scoring.accuracy import Accuracy

from .style import DASHED, GROUND, INK, STYLE, draw_grid, series_style

HEADERS = ("", "trained", "text", "mixed", "pictures", "time")


@dataclass(frozen=True)
class MethodResult:
    """Accuracies and training cost of one method.

    Attributes:
        name: of the method.
        llm_rate: learning rate of the language model; None if it was frozen.
        text: held-out text questions, asked alone.
        mixed: held-out text questions, asked after a picture in the same conversation.
        pictures: held-out questions about pictures.
        trained: number of trained parameters.
        seconds: training time.
    """

    name: str
    llm_rate: float | None
    text: Accuracy
    mixed: Accuracy
    pictures: Accuracy
    trained: int
    seconds: float

    @property
    def title(self) -> str:
        """The name, with the learning rate if the language model was trained."""
        if self.llm_rate is None:
            return self.name
        return f"{self.name} at {self.llm_rate:.0e}".replace("e-0", "e-")


def table_rows(
    before: Accuracy, results: Sequence[MethodResult], intervals: bool = True
) -> list[tuple[str, ...]]:
    """Rows under `HEADERS`; the first is the language model before training.

    Args:
        before: the language model's text accuracy.
        results: one row each.
        intervals: show 95% intervals.
    """

    def show(accuracy: Accuracy) -> str:
        return str(accuracy) if intervals else f"{accuracy.percent:.1f}"

    rows: list[tuple[str, ...]] = [("the language model before", "", show(before), "", "", "")]
    for r in results:
        accuracies = show(r.text), show(r.mixed), show(r.pictures)
        rows.append((r.title, short_count(r.trained), *accuracies, f"{r.seconds:.0f} s"))
    return rows


def markdown(before: Accuracy, results: Sequence[MethodResult]) -> str:
    """The table in Markdown."""
    lines = [HEADERS, ("---", *["---:"] * (len(HEADERS) - 1)), *table_rows(before, results)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def short_count(count: int) -> str:
    """`16k`, `1.2M`."""
    if count < 1_000_000:
        return f"{count / 1000:.0f}k"
    return f"{count / 1e6:.1f}M" if count < 1e9 else f"{count / 1e9:.1f}B"


def plot(path: str | Path, before: Accuracy, results: Sequence[MethodResult], title: str) -> None:
    """Writes a PNG of two panels: text asked alone, and text asked after a picture.

    Args:
        path: of the PNG.
        before: the language model's text accuracy before training; a dashed line in both panels.
        results: one marker each, with the 95% intervals of both accuracies.
        title: one line above.
    """
    with matplotlib.rc_context(STYLE):
        legend = 0.2 + 0.27 * math.ceil((len(results) + 1) / 2)  # inches
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
            "Up: text kept.  Right: pictures learned.  Best: upper right.  Bars: 95% intervals.",
            fontsize=10.5,
            color="#52606d",
        )
        for axes, name in ((left, "text"), (right, "mixed")):
            draw_panel(axes, before, results, name)
        left.set_title("Text questions alone", loc="left", fontsize=12)
        right.set_title("Text questions after a picture", loc="left", fontsize=12)
        left.set_ylabel("text answered (%)")
        figure.supxlabel(
            "pictures answered (%)", x=0.527, y=(legend + 0.22) / height, fontsize=11, color=INK
        )
        line = Line2D([], [], **DASHED, label="the language model before any picture")
        figure.legend(
            handles=[*(legend_entry(n, result) for n, result in enumerate(results)), line],
            loc="lower center",
            bbox_to_anchor=(0.527, 0.012),
            ncols=2,
            frameon=False,
            handletextpad=0.6,
            columnspacing=2.5,
            labelspacing=0.55,
        )
        figure.savefig(path, dpi=180)


def draw_panel(axes: Axes, before: Accuracy, results: Sequence[MethodResult], name: str) -> None:
    """Draws a marker per result; `name` is the accuracy on the y axis, "text" or "mixed"."""
    draw_grid(axes)
    axes.axhline(before.percent, **DASHED, zorder=1)
    for n, result in enumerate(results):
        text = result.text if name == "text" else result.mixed
        x, y = result.pictures.percent, text.percent
        colour, shape, area = series_style(n)
        axes.errorbar(
            x, y, xerr=result.pictures.error_bar, yerr=text.error_bar,
            color=colour, elinewidth=1.4, alpha=0.45, zorder=2,
        )  # fmt: skip
        axes.scatter(
            [x], [y], s=area, marker=shape, color=colour, edgecolor=GROUND, linewidth=1.2,
            zorder=4 - n / 10,  # the first rows of the table are drawn on top
            clip_on=False,
        )  # fmt: skip
    every = [a for r in results for a in (r.text, r.mixed)] + [before]
    axes.set_ylim(axis_start(min(a.interval[0] for a in every)), 102)
    axes.set_xlim(axis_start(min(r.pictures.interval[0] for r in results)), 102)


def legend_entry(n: int, result: MethodResult) -> Line2D:
    """The legend's entry of the n-th result."""
    colour, shape, _ = series_style(n)
    return Line2D(
        [], [], linestyle="", marker=shape, markersize=14 if shape == "*" else 9, color=colour,
        markeredgecolor=GROUND, label=result.title,
    )  # fmt: skip


def axis_start(percent: float) -> float:
    """The multiple of ten below, with a small margin."""
    return max(0.0, percent // 10 * 10 - 1)
