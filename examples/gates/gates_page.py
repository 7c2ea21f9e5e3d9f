"""The page of the gate experiment: README.md and its plot, made from `runs.jsonl`."""

from collections.abc import Iterator
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from wings.eval.gates.gate_setting import GateSetting
from wings.eval.report.style import COLOURS, DASHED, GROUND, INK, STYLE, draw_grid
from wings.examples.pages import join_parts, markdown_table

from .summary import ORACLE, GateResults
from .trainings import FEW, FULL, LONG, SEEDS

PLOT = "gates.png"
SUMS = "arithmetic"
HEAD = (
    "gate", "seeds", "text after an image", "sums", "same answers as the LLM", "KL above its floor",
    "pictures", "follow-ups", "false closes", "reached",
)  # fmt: skip
AFTERWARDS = "none, then attended"
TRAINED = "attended"
INTRODUCTION = """Learners act on text turns after an image too, and lose text answers there.
A gate on the attention to images weakens them. These runs compare gates that are trained with gates
that are put on a finished model (`wings gate`). They use the quickstart's small LLM: frozen,
guarded, with both learners.

`python -m wings.examples.gates --output runs/gates --results eval/results/gates` repeats them."""
EXPLANATION = """Percent right on fresh questions that no choice has seen: 480 about pictures, 480
about text after an image in four kinds, and 360 follow-ups about an earlier picture. In brackets:
95% intervals over questions and, where there are several, seeds. A seed draws data, weights and
order of both stages.

* Same answers: those that the LLM gives after the same exchange, with the picture described in
  words.
* KL is from the LLM that is asked alone, in nats a token on the right answer. Its floor is that of
  the LLM after the exchange in words.
* False closes: follow-ups that are right with the gate taken off and wrong with it, in percent.
* Reached, in this order: same answers at least 90% of those with learners off in text turns; KL at
  most 0.02 above its floor; pictures at most 2 points below no gate.
* Values that are put on afterwards are chosen on other questions, by the rule of `wings gate`."""


def write_page(folder: Path) -> None:
    """Writes README.md and the plot next to `runs.jsonl`; nothing before the first run."""
    if not (folder / "runs.jsonl").is_file():
        return
    results = GateResults.read(folder)
    findings = folder / "findings.md"
    said = findings.read_text(encoding="utf-8").strip() if findings.is_file() else ""
    parts = [
        "# Gates that close on text turns",
        INTRODUCTION,
        said,
        comparison(results),
        f"![Text after an image against pictures]({PLOT})",
        table(results, FULL),
        llm_sentence(results),
        EXPLANATION,
        *little_data(results),
        "## What was chosen",
        choice_table(results),
        "The curve on the validation items, full data, means over seeds: text after an image, and "
        "pictures with follow-ups.",
        curve_table(results),
        "## Attention to images",
        "Mean mass of the main attention on image tokens, over blocks, heads and the tokens of the "
        "last question, at the start of the second stage and after it.",
        mass_table(results),
    ]
    (folder / "README.md").write_text(join_parts(parts), encoding="utf-8")
    plot(results).savefig(folder / PLOT, dpi=150)


def comparison(results: GateResults) -> str:
    """The comparison that was named before the first run, in a sentence; "" without both."""
    found = [
        results.difference(FULL, AFTERWARDS, TRAINED, test)
        for test in ("mixed", "pictures", "follow_ups")
    ]
    if None in found:
        return ""
    text, pictures, follow_ups = (one.text() for one in found if one is not None)
    return (
        "**The comparison named before the runs**, attended put on afterwards minus attended "
        f"trained, in points: text after an image {text}, pictures {pictures}, follow-ups "
        f"{follow_ups}."
    )


def table(results: GateResults, size: str) -> str:
    """One row a variant."""
    return markdown_table(HEAD, rows(results, size))


def rows(results: GateResults, size: str) -> Iterator[list[str]]:
    """The rows of a size, in the order of the first measurement."""
    for variant in results.variants(size):
        lines = results.of(size, variant)
        closes = results.false_closes(size, variant)
        marks = " ".join("yes" if one else "no" for one in results.reached(size, variant))
        yield [
            variant,
            str(len(lines)),
            results.right(lines, "mixed").text(),
            f"{results.right(lines, 'mixed', SUMS).value:.1f}",
            results.same(lines).text(),
            results.above_floor(lines).text(3),
            results.right(lines, "pictures").text(),
            results.right(lines, "follow_ups").text(),
            "" if closes is None else f"{closes:.1f}",
            marks,
        ]


def llm_sentence(results: GateResults) -> str:
    """The LLM's own figures."""
    return (
        f"The LLM after the same exchange in words: {results.llm:.1f}% of the text questions; the "
        f"floor of KL is {results.floor:.3f} nats a token."
    )


def little_data(results: GateResults) -> Iterator[str]:
    """The tables of 150 pictures, those that were run."""
    for size in (FEW, LONG):
        if results.variants(size):
            yield f"## {size[0].upper()}{size[1:]} in each stage"
            yield table(results, size)


def choice_table(results: GateResults) -> str:
    """The values that `wings gate` chooses, by size and seed."""
    lines = [line for line in results.lines if "choice" in line]
    lines.sort(key=lambda line: (line["size"] != FULL, line["size"], line["seed"]))
    body = []
    for line in lines:
        chosen = line["choice"]["chosen"]
        cells = [named(*chosen[key]) for key in ("tanh", "hill", "both")]
        body.append((line["size"], line["seed"], *cells))
    return markdown_table(("size", "seed", "attended", "hill", "of both"), body)


def curve_table(results: GateResults) -> str:
    """The scores of each value on the validation items, in percent."""
    curves = [line["choice"]["curve"] for line in results.of(FULL, "none") if "choice" in line]
    body = []
    for points in zip(*curves, strict=True):
        setting = GateSetting(*points[0][:2])
        means = (sum(point[n] for point in points) / len(points) for n in (2, 3))
        body.append((setting.name, *(f"{value:.1f}" for value in means)))
    return markdown_table(("gate", "text after an image", "pictures and follow-ups"), body)


def named(gate: str, value: float | None) -> str:
    """A chosen gate with its value."""
    return "no gate" if value is None else f"{'gain' if gate == 'tanh' else 'tau'} {value:g}"


def mass_table(results: GateResults) -> str:
    """Masses on image tokens by turn, before and after the second stage."""
    body = []
    for size in (FULL, FEW, LONG):
        trained = [v for v in results.variants(size) if results.of(size, v)[0]["trained"] == v]
        for variant in trained:
            lines = results.of(size, variant)
            before = [ln["align_mass"] for ln in results.of(size, "none") if "align_mass" in ln]
            cells = [
                f"{average(before, test):.3f} -> {average([ln['mass'] for ln in lines], test):.3f}"
                for test in ("mixed", "pictures", "follow_ups")
            ]
            body.append((size, variant, *cells))
    return markdown_table(("size", "trained gate", "text turns", "pictures", "follow-ups"), body)


def average(masses: list[dict[str, float]], test: str) -> float:
    """The mean over seeds."""
    return sum(mass[test] for mass in masses) / len(masses)


def plot(results: GateResults) -> Figure:
    """Text after an image against pictures: a point a variant, pale ones for its seeds."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 5.4), facecolor=GROUND)
        axes = figure.subplots()
        draw_grid(axes)
        none = results.of(FULL, "none")
        if none:
            axes.axvline(results.right(none, "pictures").value - 2, **DASHED)
        for n, variant in enumerate(results.variants(FULL)):
            lines = results.of(FULL, variant)
            colour = INK if variant in ("none", ORACLE) else COLOURS[n % len(COLOURS)]
            marker = "o" if lines[0]["trained"] == variant else "s"
            marker = "^" if variant.startswith("constant") else marker
            each = [
                (results.right([ln], "pictures").value, results.right([ln], "mixed").value)
                for ln in lines
            ]
            xs, ys = zip(*each, strict=True)
            axes.scatter(xs, ys, s=18, color=colour, alpha=0.35, marker=marker)
            x, y = (sum(one[k] for one in each) / len(each) for k in range(2))
            axes.scatter(x, y, s=80, color=colour, marker=marker, label=variant, zorder=3)
        axes.set_xlabel("questions about pictures, % right (dashed: 2 points below no gate)")
        axes.set_ylabel("text questions after an image, % right")
        count = len({line["seed"] for line in results.lines if line["size"] == FULL})
        axes.set_title(
            f"Gates on the quickstart, {count} of {len(SEEDS)} seeds (pale: each)", loc="left",
            fontsize=12, fontweight="bold",
        )  # fmt: skip
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        figure.tight_layout()
    return figure
