"""The plot of a `Front`."""

import matplotlib
from matplotlib.figure import Figure

from wings.eval.report.style import COLOURS, DASHED, GROUND, INK, SHAPES, STYLE, draw_grid

from .front import Front, FrontResult
from .questions import PICTURES

LABELS = {"text": "alone", "conversations": "after an image"}


def front_figure(front: Front, title: str) -> Figure:
    """Text against pictures, both on the reported questions: a line of merges and the marks."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 5.4), facecolor=GROUND)
        axes = figure.subplots()
        draw_grid(axes)
        line = [_place(front, result) for result in front.merges]
        axes.plot(*zip(*line, strict=True), color=COLOURS[0], marker="o", markersize=5,
                  linewidth=1.6, label="merges, by value")  # fmt: skip
        for result, place in zip(front.merges, line, strict=True):
            axes.annotate(f"{result.value:g}", place, textcoords="offset points", xytext=(6, 5),
                          fontsize=8, color=COLOURS[0])  # fmt: skip
        marks = [front.llm, front.child, *front.others]
        for n, result in enumerate(marks):
            shape = SHAPES[(n + 1) % len(SHAPES)]
            axes.scatter(*_place(front, result), s=75, marker=shape, zorder=4,
                         color=INK if n == 0 else COLOURS[(n + 1) % len(COLOURS)],
                         label=result.name)  # fmt: skip
        axes.scatter(*_place(front, front.chosen), s=230, facecolor="none", edgecolor=INK,
                     linewidth=1.6, zorder=5, label=f"chosen: {front.chosen.name}")  # fmt: skip
        floor = front.pictures(front.child) - front.keep_pictures
        axes.axvline(floor, **DASHED)
        asked = " and ".join(LABELS[test] for test in front.questions.language_tests)
        axes.set_xlabel(
            f"questions about pictures, % right (dashed: {front.keep_pictures:g} points below the"
            " child)"
        )
        axes.set_ylabel(f"text {asked}, % right")
        axes.set_title(title, loc="left", fontsize=12, fontweight="bold", parse_math=False)
        axes.legend(frameon=False, fontsize=9, loc="best")
        figure.tight_layout()
    return figure


def _place(front: Front, result: FrontResult) -> tuple[float, float]:
    return front.accuracy(result, PICTURES).percent, front.language(result)
