"""The experiment's page: the table, the sweeps, the recipe keys, and what was found."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from wings.commands.emoji import processor_name
from wings.commands.emoji_page import table
from wings.commands.experiment.figures import Figure, Figures, figures
from wings.commands.experiment.front import Series, plot
from wings.commands.experiment.methods import BY_KEY, METHODS, Method
from wings.commands.experiment.runs import EQUAL_TIME, SEEDS, TIMED_AGAINST, Results
from wings.commands.experiment.sizes import Size
from wings.eval.bootstrap import Estimate

FINDINGS = "findings.md"  # written by people, from the figures
WHAT = (
    "SmolLM2-135M-Instruct (Apache-2.0) and DINOv2 ViT-S/14 (Apache-2.0), from ordinary Python"
    " packages, learn to read pictures: OpenMoji's drawings (openmoji.org, CC BY-SA 4.0) by name,"
    " kind and number, two pictures in one turn, and scenes of coloured shapes. Every method gets"
    " the same pictures, conversations, steps and order; it differs in what is trained, at which"
    " rate, and in one key of the recipe. No text is trained on but where a method's key says so."
)
HOW = (
    "*Text* and *mixed* are percent of what the untouched LLM answers (its greedy answers to the"
    " same questions: sums, capitals, elements, instructions that a program checks, short facts;"
    " mixed: behind an exchange about a picture, which the LLM reads as words). *Pictures* are"
    " percent of all questions, none of whose pictures was trained on. In brackets the 95% interval"
    " that the choice of questions leaves (bootstrap over questions, mean of the seeds; text and"
    " mixed paired with the LLM's own answers). *Drift* is KL(LLM || model) in nats a token on the"
    " LLM's own answers to held-out questions, alone and behind a picture. *Seconds* are those of"
    " one core in stage 2."
)
CHOSEN = (
    "A method's rate is the one whose mean of kept text, kept mixed and pictures is highest on the"
    " validation part; the table above is of the test part. A run that ended without a model (its"
    " loss was no number) counts as 0."
)
HEADERS = (
    "method", "rate", "text", "mixed", "pictures", "drift alone", "drift mixed", "seconds", "seeds",
)  # fmt: skip


def write_page(folder: Path, results: Results, size: Size) -> None:
    """`README.md` and the two plots, of what is there."""
    rows = [
        (n, method, found)
        for n, method in enumerate(METHODS)
        if (found := figures(results, results.at_best(method, size.steps))) is not None
    ]
    swept = [(n, m) for n, m in enumerate(METHODS) if results.sweep(m, size.steps)]
    parts = ["# What is learned and what is kept, on a real language model", WHAT, made(size)]
    if rows:
        plot(folder / "front.png", [front(n, m, of) for n, m, of in rows], "pictures answered (%)")
        parts += ["![kept text against learned pictures](front.png)"]
        parts += [table(HEADERS, main_rows(results, rows, size)), HOW]
    if (folder / FINDINGS).exists():
        parts.append((folder / FINDINGS).read_text(encoding="utf-8").strip())
    if swept:
        curves = [curve(n, method, results, size.steps) for n, method in swept]
        below = "pictures answered (%); the larger the mark, the higher the rate"
        plot(folder / "sweeps.png", curves, below)
        parts += ["## The sweeps", CHOSEN, "![every rate of every method](sweeps.png)"]
        parts.append(table(("method", "rate", "text", "mixed", "pictures", "chosen"),
                           sweep_rows(results, [m for _, m in swept], size.steps)))  # fmt: skip
    parts += ["## The methods", methods_table(), missing(results, size)]
    text = "\n\n".join(part for part in parts if part) + "\n"
    (folder / "README.md").write_text(text, encoding="utf-8")


def made(size: Size) -> str:
    """How it came to be, and what it would take to do it again."""
    return (
        f"`wings experiment`, one run a core of {processor_name()}; {size.align_steps} steps of"
        f" stage 1 that methods share, {size.steps} of stage 2, {size.batch_size} conversations a"
        f" step, seeds {', '.join(map(str, SEEDS))}. Every run is a line of `runs.jsonl`; the same"
        " command does what is missing there and writes this page."
    )


def main_rows(
    results: Results, rows: Sequence[tuple[int, Method, Figures]], size: Size
) -> Iterable[tuple[str, ...]]:
    """The LLM, every method at its best rate, and the row at equal time."""
    before = [f"100 = {results.before(test):.1f}%" for test in ("text", "mixed")]
    yield ("the LLM, no pictures", "", *before, "", "0", "", "", "")
    for _, method, of in rows:
        best = results.best(method, size.steps)
        yield cells(method.name, best.run.rate, of)
    longer = results.equal_steps(size.steps)
    if longer is not None:
        method = BY_KEY[EQUAL_TIME]
        rate = results.best(method, size.steps).run.rate
        of = figures(results, results.of(method, rate, longer))
        if of is not None:
            name = f"{method.name}, {longer} steps: the time of the {BY_KEY[TIMED_AGAINST].name}"
            yield cells(name, rate, of)


def cells(name: str, rate: float, of: Figures) -> tuple[str, ...]:
    """One row under `HEADERS`."""
    seeds = str(of.seeds) + (f", {of.failed} failed" if of.failed else "")
    return (
        name, f"{rate:g}", str(of.text), str(of.mixed), str(of.pictures),
        f"{of.drift_alone:.3f}", f"{of.drift_mixed:.3f}", f"{of.cpu_seconds:.0f}", seeds,
    )  # fmt: skip


def sweep_rows(
    results: Results, methods: Sequence[Method], steps: int
) -> Iterable[tuple[str, ...]]:
    """Every run of every sweep, on the validation part."""
    for method in methods:
        best = results.best(method, steps)
        for one in results.sweep(method, steps):
            scores = [
                f"{results.kept(one, test, 'validation'):.1f}"
                for test in ("text", "mixed", "pictures")
            ]
            chosen = "yes" if one is best else ""
            yield (method.name, f"{one.run.rate:g}", *scores, chosen)


def methods_table() -> str:
    """What each adds to the common recipe."""
    rows = []
    for method in METHODS:
        keys = {"wings": method.wings, **method.keys}
        if "lora" not in keys:
            keys["freeze_llm"] = not method.trains_llm
        said = "; ".join(f"{name}: {value}" for name, value in keys.items())
        rows.append((method.name, method.align, f"`{said}`", ", ".join(method.swept)))
    return table(("method", "stage 1", "recipe", "swept rate of"), rows)


def missing(results: Results, size: Size) -> str:
    """A sentence on the runs that are still to be done; none where all are."""
    short = [
        method.name for method in METHODS if len(results.at_best(method, size.steps)) < len(SEEDS)
    ]
    if not short:
        return ""
    return f"**Not done yet** (fewer than {len(SEEDS)} seeds): {', '.join(short)}."


def front(number: int, method: Method, of: Figures) -> Series:
    """A method's mark in the first plot."""
    kept: dict[str, Figure] = {"text": of.text, "mixed": of.mixed}
    ends = {test: [one.estimate] for test, one in kept.items()}
    return Series(number, method.name, [of.pictures.estimate], ends)


def curve(number: int, method: Method, results: Results, steps: int) -> Series:
    """A method's line in the second."""
    runs = [run for run in results.sweep(method, steps) if not run.failed]

    def of(test: str) -> list[Estimate]:
        return [Estimate(results.kept(run, test, "validation"), None, None) for run in runs]

    kept = {test: of(test) for test in ("text", "mixed")}
    return Series(number, method.name, of("pictures"), kept)
