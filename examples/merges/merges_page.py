"""The page of the merge results: README.md and its plot, made from `runs.jsonl`."""

from collections.abc import Iterator
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wings.eval.report.style import COLOURS, DASHED, GROUND, INK, STYLE, draw_grid
from wings.examples.pages import join_parts, markdown_table

from .children import QUICKSTART, SMOLLM2, TITLES
from .results import Line, MergeResults
from .variants import GENTLE, GROUPS, SWEPT, UNMERGED

PLOT = "merges.png"
PAGE_FILES = ("README.md", PLOT)
HEAD = (
    "merge", "text alone", "text after an image", "pictures", "KL alone", "KL above its floor",
)  # fmt: skip
LEAST_RANGE = 30.0  # points of the axis of text
TESTS = ("text", "conversations", "pictures")
SHORT = {"full": "full fine-tune", "wings": "Wings"}
NAMES = {QUICKSTART: "The quickstart's LLM", SMOLLM2: "SmolLM2-135M"}
HEADINGS = {
    "full": "Full fine-tune, merged with its LLM",
    "wings": "Wings as published (LLM trained), merged with its LLM; its learners are kept",
    "two": "Both children; the tower and projector of the full fine-tune are kept",
}
INTRODUCTION = """`wings merge` moves the language model inside a multimodal child back towards the
LLM that it was trained from. These are merges of children that forgot text.

`python -m wings.examples.merges --output runs/merges --results eval/results/merge` repeats them.
[memory.md](memory.md) has the memory that a merge takes."""
EXPLANATION = """Percent right of questions that no choice has seen. Text is asked alone, and after
an exchange about an image; the LLM reads that exchange in words. In brackets: 95% intervals over
questions and, where there are several, seeds. A seed draws data, weights and order of both stages.

* KL is from the LLM that is asked alone, in nats a token on the right answers. Its floor is that of
  the LLM after the exchange in words.
* A linear merge has the given weight of the child, the LLM the rest. The table is the embedding
  table, which is the output head too.
* Child minus or plus: the child's largest moves away from its LLM are taken back, or added again.
* LLM + largest: only the child's largest moves are kept. With one child, ties is the same."""


def write_page(folder: Path) -> None:
    """Writes README.md and the plot next to `runs.jsonl`; nothing before the first group."""
    if not (folder / "runs.jsonl").is_file():
        return
    results = MergeResults.read(folder)
    findings = folder / "findings.md"
    said = findings.read_text(encoding="utf-8").strip() if findings.is_file() else ""
    parts = ["# Merging a child back towards its LLM", INTRODUCTION, said]
    parts += [comparison(results), f"![Text against pictures]({PLOT})", EXPLANATION]
    for base in results.bases:
        parts += [f"## {NAMES[base]}", *tables(results, base), *choices(results, base)]
    (folder / "README.md").write_text(join_parts(parts), encoding="utf-8")
    plot(results).savefig(folder / PLOT, dpi=150)


def comparison(results: MergeResults) -> str:
    """The comparison that was named before the first run, in a sentence; "" without it."""
    unmerged = results.of(QUICKSTART, "full", UNMERGED)
    if not unmerged:
        return ""
    chosen = [results.chosen(QUICKSTART, "full", line["seed"]) for line in unmerged]
    text, after, pictures = (results.difference(chosen, unmerged, test).text() for test in TESTS)
    return (
        "**The comparison named before the runs**, the linear weight that the sweep chooses minus"
        f" the unmerged full fine-tune of the quickstart, in points: text alone {text}, text after"
        f" an image {after}, pictures {pictures}."
    )


def tables(results: MergeResults, base: str) -> Iterator[str]:
    """The LLM's own figures, and one table a group."""
    alone, after, guessed = (results.llm(base, test) for test in TESTS)
    seeds = len(results.of(base, "full", UNMERGED))
    yield (
        f"{seeds} seed{'s' * (seeds != 1)}. The LLM itself: text alone {alone:.1f}, after the same"
        f" exchange in words {after:.1f}, pictures without seeing them {guessed:.1f}; the floor of"
        f" KL is {results.floor(base):.3f} nats a token."
    )
    for group in GROUPS:
        if models := results.models(base, group):
            yield f"### {HEADINGS[group]}"
            rows = [row(results, name, results.of(base, group, name)) for name in models]
            yield markdown_table(HEAD, rows)


def row(results: MergeResults, name: str, lines: list[Line]) -> list[str]:
    """A model's figures."""
    floor = results.floor(lines[0]["base"])
    above = results.kl(lines, "after").value - floor
    return [
        name,
        *(results.right(lines, test).text() for test in TESTS),
        f"{results.kl(lines, 'alone').value:.3f}",
        f"{above:.3f}",
    ]


def choices(results: MergeResults, base: str) -> Iterator[str]:
    """The linear weights that the sweep chooses, by seed, with their difference from the child."""
    rows = []
    for group in ("full", "wings"):
        for line in results.of(base, group, UNMERGED):
            chosen = results.chosen(base, group, line["seed"])
            changes = (results.difference([chosen], [line], test).text() for test in TESTS)
            rows.append((TITLES[group], line["seed"], chosen["model"], *changes))
    if rows:
        yield "### What the sweep chooses"
        yield (
            "The most text, of the linear merges with at most 2 points of pictures less than the"
            " child, on the questions to choose by. The differences are on the others, in points."
        )
        yield markdown_table(("child", "seed", "chosen", *HEAD[1:4]), rows)


def plot(results: MergeResults) -> Figure:
    """Text against pictures, a panel an LLM."""
    with matplotlib.rc_context(STYLE):
        count = len(results.bases)
        figure = Figure(figsize=(6.4 * count, 5.6), facecolor=GROUND)
        panels = figure.subplots(1, count, squeeze=False)[0]
        for axes, base in zip(panels, results.bases, strict=True):
            draw_panel(axes, results, base)
        handles, labels = panels[0].get_legend_handles_labels()
        named = dict(zip(labels, handles, strict=True))
        figure.legend(
            named.values(),
            named.keys(),
            frameon=False,
            fontsize=9,
            loc="lower center",
            ncols=3 if count > 1 else 2,
        )
        figure.tight_layout(rect=(0, 0.14 if count > 1 else 0.2, 1, 1))
    return figure


def draw_panel(axes: Axes, results: MergeResults, base: str) -> None:
    """The lines of linear merges, other merges as pale points, and the marks."""
    draw_grid(axes)
    for n, group in enumerate(("full", "wings")):
        colour = COLOURS[2 * n]
        names = results.models(base, group)
        if not names:
            continue
        line = [name for name in names if SWEPT.fullmatch(name)] + [UNMERGED]
        others = [name for name in names if name not in (*line, GENTLE)]
        xs, ys = zip(*(place(results, results.of(base, group, name)) for name in line), strict=True)
        axes.plot(xs, ys, "-o", color=colour, linewidth=1.6, markersize=4,
                  label=f"{SHORT[group]}, linear")  # fmt: skip
        axes.scatter(xs[-1:], ys[-1:], s=75, marker="D", color=colour, zorder=4,
                     label=f"{SHORT[group]}, unmerged")  # fmt: skip
        for name in others:
            x, y = place(results, results.of(base, group, name))
            is_added = name.startswith("child +")
            axes.scatter(
                x,
                y,
                s=26,
                marker="x" if is_added else "s",
                color=colour,
                alpha=0.6,
                label=f"{SHORT[group]}, {'moves added again' if is_added else 'others'}",
            )
    for name in results.models(base, "two"):
        x, y = place(results, results.of(base, "two", name))
        if name != UNMERGED:
            axes.scatter(x, y, s=34, marker="^", color=COLOURS[6], label="both children")
    if gentle := results.of(base, "full", GENTLE):
        axes.scatter(*place(results, gentle), s=90, marker="*", color=INK, zorder=5, label=GENTLE)
    text = [results.llm(base, test) for test in ("text", "conversations")]
    axes.axhline(sum(text) / 2, **DASHED)
    axes.set_xlabel("questions about pictures, % right")
    axes.set_ylabel("text, % right (dashed: the LLM)")
    # A narrower axis would show noise as differences.
    low, high = axes.get_ylim()
    spare = max(0.0, LEAST_RANGE - (high - low)) / 2
    axes.set_ylim(low - spare, high + spare)
    axes.set_title(NAMES[base], loc="left", fontsize=12, fontweight="bold")


def place(results: MergeResults, lines: list[Line]) -> tuple[float, float]:
    """A model's point: pictures, and the mean of both tests about text."""
    text = [results.right(lines, test).value for test in ("text", "conversations")]
    return results.right(lines, "pictures").value, sum(text) / 2
