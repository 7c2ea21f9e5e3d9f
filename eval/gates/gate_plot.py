"""The plot of a `GateCurve`."""

import matplotlib
from matplotlib.figure import Figure

from wings.eval.report.style import COLOURS, DASHED, GROUND, INK, STYLE, draw_grid

from .gate_curve import GateCurve, GateResult

LINES = {"tanh": (COLOURS[0], "o"), "hill": (COLOURS[2], "s")}
POINTS = {"none": ("D", INK), "saved": ("P", COLOURS[6])}


def curve_figure(curve: GateCurve, title: str) -> Figure:
    """Text after an item against questions about it: a line for each shape, with its values."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 5.4), facecolor=GROUND)
        axes = figure.subplots()
        draw_grid(axes)
        axes.axvline(curve.question_floor, **DASHED)
        for result in curve.results:
            if result.setting.gate == "off":
                axes.axhline(result.text_percent, color=COLOURS[4], linewidth=1.4, linestyle=":",
                             label=result.setting.name)  # fmt: skip
        for gate, (colour, marker) in LINES.items():
            line = [result for result in curve.results if result.setting.gate == gate]
            x, y = ([place(r)[n] for r in line] for n in range(2))
            word = "gain" if gate == "tanh" else "tau"
            axes.plot(x, y, color=colour, marker=marker, markersize=6, linewidth=1.6,
                      label=f"{gate}, by {word}")  # fmt: skip
            for result in line:
                axes.annotate(
                    f"{result.setting.value:g}", place(result), textcoords="offset points",
                    xytext=(6, 5 if gate == "tanh" else -11), fontsize=8, color=colour,
                )  # fmt: skip
        for result in curve.results:
            if result.setting.gate in POINTS:
                marker, colour = POINTS[result.setting.gate]
                axes.scatter(*place(result), s=70, marker=marker, color=colour, zorder=4,
                             label=result.setting.name)  # fmt: skip
        axes.scatter(*place(curve.chosen), s=230, facecolor="none", edgecolor=INK, linewidth=1.6,
                     zorder=5, label=f"chosen: {curve.chosen.setting.name}")  # fmt: skip
        axes.set_xlabel(
            f"questions about {curve.sense.questions}, % right (dashed: the fewest allowed)"
        )
        axes.set_ylabel(f"text questions after {curve.sense.one}, % right")
        axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
        axes.legend(frameon=False, fontsize=9, loc="best")
        figure.tight_layout()
    return figure


def place(result: GateResult) -> tuple[float, float]:
    """A result's point: questions about items and text after an item, in percent."""
    return result.question_percent, result.text_percent
