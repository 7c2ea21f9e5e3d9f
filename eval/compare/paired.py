"""Paired scores of two models on the same questions: accuracies, difference, table and plot."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from wings.eval.report.style import COLOURS, DASHED, GROUND, INK, PALE, STYLE, draw_grid
from wings.eval.scoring.accuracy import Accuracy

from .bootstrap import Estimate, bootstrap
from .clusters import cluster_accuracy

HEADERS: tuple[str, ...] = ("", "n", "LLM", "model", "difference", "-/+")
BEFORE, AFTER = INK, COLOURS[0]
WIDTH = 4.3  # inches, so that text stays readable on a phone
LETTER = 0.0165  # width of a letter of a name, as a share of the figure's width
LONG = 22  # letters of a name in one line


@dataclass(frozen=True)
class PairedScores:
    """Scores of the same questions before and after.

    Attributes:
        before: [N] from 0 to 1.
        after: [N], in the same order.
        seed: of the bootstrap.
        clusters: [N] the number of each question's cluster; None if every question is one.
    """

    before: Sequence[float]
    after: Sequence[float]
    seed: int = 0
    clusters: Sequence[int] | None = None

    @property
    def cluster_count(self) -> int:
        """The number of clusters, which intervals resample."""
        return len(self.before) if self.clusters is None else len(set(self.clusters))

    @property
    def accuracies(self) -> tuple[Accuracy, Accuracy]:
        """Before and after."""
        clusters = range(len(self.before)) if self.clusters is None else self.clusters
        before, after = (
            cluster_accuracy(one, clusters, self.seed) for one in (self.before, self.after)
        )
        return before, after

    @property
    def difference(self) -> Estimate:
        """After minus before, in percentage points, with a paired bootstrap interval."""
        pairs = zip(self.before, self.after, strict=True)
        changes = [100.0 * (after - before) for before, after in pairs]
        return bootstrap(changes, seed=self.seed, clusters=self.clusters)

    @property
    def changes(self) -> tuple[int, int]:
        """Numbers of questions with a lower and with a higher score after than before."""
        pairs = list(zip(self.before, self.after, strict=True))
        return sum(a < b for b, a in pairs), sum(a > b for b, a in pairs)

    def to_dict(self) -> dict[str, Any]:
        """Accuracies, difference, questions lost and won, and number of clusters, for JSON."""
        before, after = self.accuracies
        lost, won = self.changes
        return {
            "before": before.to_dict(),
            "after": after.to_dict(),
            "difference": self.difference.to_dict(),
            "lost": lost,
            "won": won,
            "clusters": self.cluster_count,
        }


def paired_table(named: Mapping[str, PairedScores]) -> list[tuple[str, ...]]:
    """A table of paired scores by name, headers first."""
    rows = [HEADERS]
    for name, paired in named.items():
        before, after = paired.accuracies
        lost, won = paired.changes
        change = format_points(paired.difference)
        rows.append((name, str(before.total), str(before), str(after), change, f"{lost}/{won}"))
    return rows


def format_points(change: Estimate) -> str:
    """`-18.8 (-23.8, -13.8)`."""
    if change.low is None or change.high is None:
        return f"{change.value:+.1f}"
    return f"{change.value:+.1f} ({change.low:.1f}, {change.high:.1f})"


def paired_plot(
    named: Mapping[str, PairedScores], labels: tuple[str, str] = ("LLM", "model")
) -> Figure:
    """A row per name. Left: both accuracies with their intervals; right: their difference.

    Args:
        named: the paired scores.
        labels: of the legend, before and after.
    """
    with matplotlib.rc_context(STYLE):
        height = 1.15 + 0.42 * len(named)
        rows = [fold(name) for name in named]
        longest = max(len(part) for row in rows for part in row.split("\n"))
        figure = Figure(figsize=(WIDTH, height), facecolor=GROUND)
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.35, 1))
        figure.subplots_adjust(
            left=min(0.4, max(0.22, LETTER * longest)),
            right=0.97,
            top=1 - 0.42 / height,
            bottom=0.5 / height,
            wspace=0.18,
        )
        right.axvline(0, **DASHED)
        # A difference of zero still needs an axis with room.
        widest = 5.0
        for n, paired in enumerate(named.values()):
            before, after = paired.accuracies
            for name, accuracy, colour, lift in (
                (labels[0], before, BEFORE, 0.13),
                (labels[1], after, AFTER, -0.13),
            ):
                left.errorbar(
                    accuracy.percent, n - lift, xerr=accuracy.error_bar, fmt="o", markersize=5,
                    color=colour, elinewidth=1.6, label=name if n == 0 else None,
                )  # fmt: skip
            change = paired.difference
            ends = (min(change.points), max(change.points))
            right.plot(ends, [n, n], color=AFTER, linewidth=1.8)
            right.plot([change.value], [n], "D", color=AFTER, markersize=5)
            widest = max(widest, *map(abs, ends))
        for axes, title in ((left, "right, %"), (right, "difference")):
            draw_grid(axes, "x")
            axes.tick_params(labelsize=9)
            axes.set_title(title, loc="left", fontsize=10)
            axes.spines["left"].set_visible(False)
            axes.spines["bottom"].set_color(PALE)
        left.set_xlim(-3, 103)
        right.set_xlim(-1.1 * widest, 1.1 * widest)
        # A dollar sign in a name is not mathematics.
        left.set_yticks(range(len(named)), rows, parse_math=False)
        left.set_ylim(len(named) - 0.5, -0.5)
        handles, names = left.get_legend_handles_labels()
        figure.legend(
            handles, names, loc="upper right", ncols=2, frameon=False, fontsize=9,
            bbox_to_anchor=(0.995, 1.02), handletextpad=0.2, columnspacing=1,
        )  # fmt: skip
    return figure


def fold(name: str) -> str:
    """A name in lines of at most `LONG` letters, broken after spaces and underscores."""
    lines = [""]
    for piece in re.findall(r"[^ _]*[ _]?", name):
        if len(lines[-1]) + len(piece.rstrip()) > LONG:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)
