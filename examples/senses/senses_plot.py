"""The study's plot: sounds against pictures, and text after a sense against questions for both."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from wings.eval.report.style import COLOURS, DASHED, GROUND, SHAPES, STYLE, draw_grid
from wings.examples.experiment.plot import error_bar

from .both_questions import BOTH
from .rows import AUDIO, IMAGE
from .senses_measure import AFTER, OF_SENSE
from .senses_tables import NAMES, RowSummary

# Tests of the horizontal and of the vertical axis of each panel.
PANELS = ((OF_SENSE[IMAGE], OF_SENSE[AUDIO]), (BOTH, AFTER[IMAGE]), (BOTH, AFTER[AUDIO]))


def plot(path: Path, summaries: Sequence[RowSummary]) -> None:
    """Writes a PNG.

    Args:
        path: of the PNG.
        summaries: at most eight; a row without a test is not in its panel.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(15, 6.4), facecolor=GROUND)
        panels = figure.subplots(1, len(PANELS))
        for axes, (across, up) in zip(panels, PANELS, strict=True):
            draw_grid(axes)
            if up in AFTER.values():
                axes.axhline(100, **DASHED, zorder=1)
            for n, of in enumerate(summaries):
                if across not in of.tests or up not in of.tests:
                    continue
                x, y = of.tests[across], of.tests[up]
                axes.errorbar(
                    x.value, y.value, xerr=error_bar(x), yerr=error_bar(y), color=COLOURS[n],
                    marker=SHAPES[n], markersize=12 if SHAPES[n] == "*" else 8, linestyle="none",
                    elinewidth=1.2, markeredgecolor=GROUND, zorder=3,
                )  # fmt: skip
            is_text = up in AFTER.values()
            axes.set_xlabel(f"{NAMES[across]} (%)")
            axes.set_ylabel(f"{NAMES[up]} ({'the LLM = 100' if is_text else '%'})")
        for n, of in enumerate(summaries):
            panels[0].plot(
                [], [], color=COLOURS[n], marker=SHAPES[n], linestyle="none", label=of.row.title,
            )  # fmt: skip
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False, fontsize=10)
        figure.tight_layout(rect=(0, 0.17, 1, 1))
        figure.savefig(path, dpi=110)
