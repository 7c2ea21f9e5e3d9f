"""The experiment's page: the table, the sweeps, the recipe keys, and what was found."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from wings.eval.compare.bootstrap import Estimate
from wings.eval.report.machine import processor_name
from wings.examples.emoji.page import table

from .figures import Figure, Figures, figures
from .front import Series, plot
from .measure import TESTS, of_kinds
from .methods import ALIGNS, BY_KEY, METHODS, Method
from .pairs import pair_rows
from .runs import BELOW, EQUAL_TIME, SEEDS, TIMED_AGAINST, Results
from .sizes import Size

FINDINGS = "findings.md"  # written by people, from the figures
WHAT = (
    "SmolLM2-135M-Instruct (Apache-2.0) and DINOv2 ViT-S/14 (Apache-2.0), from ordinary Python"
    " packages, learn to read pictures. There are OpenMoji's drawings (openmoji.org, CC BY-SA 4.0)"
    " by name, kind and number, two pictures in one turn, and scenes of coloured shapes. Every"
    " method gets the same pictures, steps and order. Methods differ in what is trained and how"
    " much, at which rate, and in the recipe keys that the last table lists. Methods with learners"
    " already train them in stage 1, as published, where the others train a projector only"
    " (*learners new in stage 2* is the row without that). Text is trained on only where a key"
    " asks for it: text turns follow a quarter of the conversations, replayed text replaces a tenth"
    " of them."
)
HOW = (
    "*Text* and *mixed* count right answers, with those of the untouched LLM as 100. Answers are"
    " greedy, to the same questions: sums, capitals, elements, instructions that a program checks,"
    " short facts. Mixed questions follow an exchange about a picture, which the LLM reads as"
    " words. Both are net: new right answers make up for lost ones, also across kinds. *Same* is"
    " percent of the very questions that the LLM answered rightly. *Pictures* are percent of all"
    " questions, none of whose pictures was trained on; some are right without a look. Brackets"
    " hold the 95% interval over the choice of questions (bootstrap of the mean of the seeds; text"
    " and mixed paired with the LLM's own answers). **The intervals leave seeds out**: see every"
    " seed below. Seeds move the order of the data and what stage 2 draws anew; stage 1 is one run."
    " *Drift* is KL(LLM || model) in nats a token on the LLM's own answers, cut after whole"
    " sentences, to questions that were not trained on: alone and after a picture. Text in the"
    " data, and most of all kl_to_base, trains on such answers. *Seconds* are those of one core: of"
    " stage 2 as the process counts them, mean of the seeds; of stage 1, one run that methods"
    " share, by the clock. The wall time in `runs.jsonl` includes other work on the machine."
)
CHOSEN = (
    "A method's rate is the one whose mean of text, mixed and pictures is highest on the validation"
    " part; the tables above are of the test part. *Edge*: the chosen rate is the lowest or the"
    " highest that was tried. *Below its sweep* are lower rates, added later and not chosen from."
    " A run that ended without a model (its loss was not a number) counts as 0. The validation"
    " part is small: one right answer is worth {text:.1f} points of text, {mixed:.1f} of mixed."
)
AGAINST = (
    "Two methods on the same questions, at their chosen rates, mean of the seeds. Brackets hold the"
    " 95% interval of the paired difference over questions; seeds are not in it."
)
HEADERS = (
    "method", "rate", "text", "same", "mixed", "same", "pictures", "drift alone", "drift mixed",
    "stage 1 s", "stage 2 s", "seeds",
)  # fmt: skip


def write_page(folder: Path, results: Results, size: Size) -> None:
    """`README.md` and the two plots, of what is there."""
    rows = [
        (n, method, found)
        for n, method in enumerate(METHODS)
        if (found := figures(results, results.at_best(method, size.steps))) is not None
    ]
    named = [(method.name, of) for _, method, of in rows]
    named += [(name, of) for name, _, of, _ in below_sweeps(results, size)]
    swept = [(n, m) for n, m in enumerate(METHODS) if results.sweep(m, size.steps)]
    parts = ["# What is learned and what is kept, on a real language model", WHAT, made(size)]
    if rows:
        marks = [front(n, m, of) for n, m, of in rows]
        plot(folder / "front.png", marks, "pictures answered (%)", results.guess)
        parts += ["![kept text against learned pictures](front.png)"]
        parts += [table(HEADERS, main_rows(results, rows, size)), HOW]
    if (folder / FINDINGS).exists():
        parts.append((folder / FINDINGS).read_text(encoding="utf-8").strip())
    if rows:
        parts += ["## Every seed, and answers by kind"]
        parts += [table(("method", "text", "mixed", "pictures"), seed_rows(rows))]
        parts += [kind_table("mixed", "the LLM, no pictures", results.llm["test"]["mixed"], named)]
        parts += [
            kind_table("pictures", "the commonest answer, no look", results.llm["guess"], named)
        ]
        if against := list(pair_rows(results, size.steps)):
            parts += [AGAINST, table(("points of all questions", *TESTS), against)]
    if swept:
        curves = [curve(n, method, results, size.steps) for n, method in swept]
        below = "pictures answered (%); the larger the mark, the higher the rate"
        plot(folder / "sweeps.png", curves, below)
        worth = {test: answer_worth(results, test) for test in ("text", "mixed")}
        parts += ["## The sweeps", CHOSEN.format(**worth)]
        parts += ["![every rate of every method](sweeps.png)"]
        parts.append(table(("method", "rate", "text", "mixed", "pictures", "chosen"),
                           sweep_rows(results, [m for _, m in swept], size.steps)))  # fmt: skip
    parts += ["## The methods", methods_table(), aligns(), missing(results, size)]
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
    """The LLM, every method at its best rate, the row at equal time, and those below a sweep."""
    before = [f"100 = {results.before(test):.1f}%" for test in ("text", "mixed")]
    none = ("", "", "", "", "")
    yield ("the LLM, no pictures", "", before[0], "100", before[1], "100", "", "0", *none[1:])
    yield ("the commonest answer, no look", "", *none[1:], f"{results.guess:.1f}", *none)
    for _, method, of in rows:
        if (best := results.best(method, size.steps)) is not None:
            yield cells(method.name, best.run.rate, of, results.stage_1[method.align])
    longer = results.equal_steps(size.steps)
    method = BY_KEY[EQUAL_TIME]
    best = results.best(method, size.steps)
    if longer is not None and best is not None:
        rate = best.run.rate
        timed = figures(results, results.of(method, rate, longer))
        if timed is not None:
            theirs = BY_KEY[TIMED_AGAINST].name
            name = f"{method.name}, {longer} steps: stage 2 as long as that of the {theirs}"
            yield cells(name, rate, timed, results.stage_1[method.align])
    for row in below_sweeps(results, size):
        yield cells(*row)


def below_sweeps(results: Results, size: Size) -> Iterable[tuple[str, float, Figures, float]]:
    """Name, rate, figures and seconds of stage 1 of the rows at rates below a sweep."""
    for key, rate in BELOW.items():
        method = BY_KEY[key]
        gentle = figures(results, results.of(method, rate, size.steps))
        if gentle is not None:
            name = f"{method.name}, below its sweep"
            yield name, rate, gentle, results.stage_1[method.align]


def cells(name: str, rate: float, of: Figures, stage_1: float) -> tuple[str, ...]:
    """One row under `HEADERS`."""
    seeds = str(of.seeds) + (f", {of.failed} failed" if of.failed else "")
    return (
        name, f"{rate:g}", str(of.text), f"{of.text.same:.0f}", str(of.mixed),
        f"{of.mixed.same:.0f}", str(of.pictures),
        f"{of.drift_alone:.3f}", f"{of.drift_mixed:.3f}", f"{stage_1:.0f}",
        f"{of.cpu_seconds:.0f}", seeds,
    )  # fmt: skip


def seed_rows(rows: Sequence[tuple[int, Method, Figures]]) -> Iterable[tuple[str, ...]]:
    """Every seed's figures."""
    for _, method, of in rows:
        every = (of.text, of.mixed, of.pictures)
        yield (method.name, *(", ".join(f"{x:.0f}" for x in one.seeds) for one in every))


def kind_table(
    test: str, first: str, marks: dict[str, list[float]], rows: Sequence[tuple[str, Figures]]
) -> str:
    """Percent of the answers of each kind, mean over seeds, after a first row of `marks`."""
    lines = [(first, *(f"{100 * sum(of) / len(of):.0f}" for of in marks.values()))]
    lines += [(name, *(f"{of.kinds[test][kind]:.0f}" for kind in marks)) for name, of in rows]
    return table(
        (f"{test}, percent", *(f"{kind} ({len(of)})" for kind, of in marks.items())), lines
    )


def answer_worth(results: Results, test: str) -> float:
    """Points that one answer of the validation part is worth."""
    return 100 / sum(of_kinds(results.llm["validation"][test]))


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
            ends = one.run.rate in (method.rates[0], method.rates[-1])
            chosen = ("yes, edge" if ends else "yes") if one is best else ""
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


def aligns() -> str:
    """What stage 1 trains beside the projector, by the names of the table."""
    said = "; ".join(f"*{name}*: `{wings}`" for name, wings in ALIGNS.items())
    return f"Stage 1, which trains the projector and image learners if any: {said}."


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
