"""The plot of a comparison: accuracy before and after, and the paired difference, line by line."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure

from wings.eval.report.plot import COLOURS, GROUND, INK, PALE, STYLE, reach
from wings.eval.scoring.accuracy import Accuracy

from .bootstrap import Estimate

BEFORE, AFTER = INK, COLOURS[0]
WIDTH = 4.3  # inches: letters stay readable where a phone makes the plot narrow
LETTER = 0.0165  # of the width, of a letter of a kind's name
LONG = 22  # letters of a name in one line


@dataclass(frozen=True)
class Line:
    """One kind of item."""

    name: str
    before: Accuracy
    after: Accuracy
    change: Estimate


def paired_plot(lines: Sequence[Line]) -> Figure:
    """Left the two accuracies with Wilson's intervals, right their difference with its own."""
    with matplotlib.rc_context(STYLE):
        height = 1.15 + 0.42 * len(lines)
        names = [folded(line.name) for line in lines]
        longest = max(len(part) for name in names for part in name.split("\n"))
        figure = Figure(figsize=(WIDTH, height), facecolor=GROUND)
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.35, 1))
        figure.subplots_adjust(
            left=min(0.4, max(0.22, LETTER * longest)),
            right=0.97,
            top=1 - 0.42 / height,
            bottom=0.5 / height,
            wspace=0.18,
        )
        right.axvline(0, color=INK, linewidth=1, linestyle=(0, (5, 4)))
        for n, line in enumerate(lines):
            shown = (("LLM", line.before, BEFORE, 0.13), ("model", line.after, AFTER, -0.13))
            for name, score, colour, lift in shown:
                left.errorbar(
                    score.percent, n - lift, xerr=reach(score), fmt="o", markersize=5,
                    color=colour, elinewidth=1.6, label=name if n == 0 else None,
                )  # fmt: skip
            value, low, high = line.change.value, line.change.low, line.change.high
            right.plot([value if low is None else low, value if high is None else high], [n, n],
                       color=AFTER, linewidth=1.8)  # fmt: skip
            right.plot([value], [n], "D", color=AFTER, markersize=5)
        for axes, title in ((left, "right, %"), (right, "difference")):
            axes.grid(axis="x", color="#eef1f4", linewidth=1)
            axes.set_axisbelow(True)
            axes.tick_params(length=0, labelsize=9)
            axes.set_title(title, loc="left", fontsize=10)
            axes.spines["left"].set_visible(False)
            axes.spines["bottom"].set_color(PALE)
        left.set_xlim(-3, 103)
        # A difference of nothing still gets an axis with room.
        widest = max(5.0, *(abs(end) for line in lines for end in ends(line.change)))
        right.set_xlim(-1.1 * widest, 1.1 * widest)
        left.set_yticks(range(len(lines)), names)
        left.set_ylim(len(lines) - 0.5, -0.5)
        handles, said = left.get_legend_handles_labels()
        figure.legend(
            handles, said, loc="upper right", ncols=2, frameon=False, fontsize=9,
            bbox_to_anchor=(0.995, 1.02), handletextpad=0.2, columnspacing=1,
        )  # fmt: skip
    return figure


def folded(name: str) -> str:
    """A name in lines of at most `LONG` letters, broken after spaces and underscores."""
    lines = [""]
    for piece in re.findall(r"[^ _]*[ _]?", name):
        if len(lines[-1]) + len(piece.rstrip()) > LONG:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def ends(change: Estimate) -> list[float]:
    """The numbers that a difference's mark reaches."""
    return [end for end in (change.value, change.low, change.high) if end is not None]
