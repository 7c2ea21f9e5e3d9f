"""The experiment's page: the table, every seed, paired differences, the sweeps, the methods."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from wings.eval.compare.bootstrap import Estimate
from wings.eval.report.machine import processor_name
from wings.examples.pages import join_parts, markdown_table

from .dataset import ExperimentSize
from .measure import TESTS, KindScores, all_kinds
from .methods import ALIGNS, BY_KEY, METHODS, SweptMethod
from .plot import MethodCurve, plot
from .runs import BELOW, EQUAL_TIME, SEEDS, TIMED_AGAINST, ExperimentResults
from .summary import MethodSummary, paired_rows, summarize

FINDINGS = "findings.md"  # written by hand, from the page
SETUP = (
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
COLUMNS = (
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
SELECTION = (
    "A method's rate is the one whose mean of text, mixed and pictures is highest on the validation"
    " part; the tables above are of the test part. *Edge*: the chosen rate is the lowest or the"
    " highest that was tried. *Below its sweep* are lower rates, added later and not chosen from."
    " A run that ended without a model (its loss was not a number) counts as 0. The validation"
    " part is small: one right answer is worth {text:.1f} points of text, {mixed:.1f} of mixed."
)
PAIRED = (
    "Two methods on the same questions, at their chosen rates, mean of the seeds. Brackets hold the"
    " 95% interval of the paired difference over questions; seeds are not in it."
)
HEADERS = (
    "method", "rate", "text", "same", "mixed", "same", "pictures", "drift alone", "drift mixed",
    "stage 1 s", "stage 2 s", "seeds",
)  # fmt: skip
SWEEP_HEADERS = ("method", "rate", "text", "mixed", "pictures", "chosen")
NO_LOOK = "the commonest answer, no look"
# number, method and summary of every method whose sweep is finished
Summaries = Sequence[tuple[int, SweptMethod, MethodSummary]]


def write_page(folder: Path, results: ExperimentResults, size: ExperimentSize) -> None:
    """Writes `README.md` and the two plots from the runs that are finished."""
    summaries = [
        (n, method, summary)
        for n, method in enumerate(METHODS)
        if (summary := summarize(results, results.at_best(method, size.steps))) is not None
    ]
    swept = [(n, m) for n, m in enumerate(METHODS) if results.sweep(m, size.steps)]
    made = (
        f"`wings experiment`, one run a core of {processor_name()}; {size.align_steps} steps of"
        f" stage 1 that methods share, {size.steps} of stage 2, {size.batch_size} conversations a"
        f" step, seeds {', '.join(map(str, SEEDS))}. Every run is a line of `runs.jsonl`; the same"
        " command does what is missing there and writes this page."
    )
    parts = ["# What is learned and what is kept, on a real language model", SETUP, made]
    if summaries:
        curves = [
            MethodCurve(
                number,
                method.name,
                [of.pictures.estimate],
                {"text": [of.text.estimate], "mixed": [of.mixed.estimate]},
            )
            for number, method, of in summaries
        ]
        plot(folder / "front.png", curves, "pictures answered (%)", results.guess)
        parts += ["![kept text against learned pictures](front.png)"]
        parts += [markdown_table(HEADERS, main_rows(results, summaries, size.steps)), COLUMNS]
    if (folder / FINDINGS).exists():
        parts.append((folder / FINDINGS).read_text(encoding="utf-8").strip())
    if summaries:
        parts += ["## Every seed, and answers by kind"]
        parts += [markdown_table(("method", "text", "mixed", "pictures"), seed_rows(summaries))]
        named = [(method.name, summary) for _, method, summary in summaries]
        named += [(name, summary) for name, _, _, summary in below_sweeps(results, size.steps)]
        llm_mixed = results.llm["test"]["mixed"]
        parts += [kind_table("mixed", "the LLM, no pictures", llm_mixed, named)]
        parts += [kind_table("pictures", NO_LOOK, results.llm["guess"], named)]
        if pairs := list(paired_rows(results, size.steps)):
            parts += [PAIRED, markdown_table(("points of all questions", *TESTS), pairs)]
    if swept:
        curves = [sweep_curve(n, method, results, size.steps) for n, method in swept]
        below = "pictures answered (%); the larger the mark, the higher the rate"
        plot(folder / "sweeps.png", curves, below)
        # One right answer of the validation part, in points.
        points = {
            test: 100 / sum(all_kinds(results.llm["validation"][test]))
            for test in ("text", "mixed")
        }
        parts += ["## The sweeps", SELECTION.format(**points)]
        parts += ["![every rate of every method](sweeps.png)"]
        rows = sweep_rows(results, [method for _, method in swept], size.steps)
        parts.append(markdown_table(SWEEP_HEADERS, rows))
    aligns = "; ".join(f"*{name}*: `{wings}`" for name, wings in ALIGNS.items())
    parts += ["## The methods", methods_table()]
    parts += [f"Stage 1, which trains the projector and image learners if any: {aligns}."]
    missing = [m.name for m in METHODS if len(results.at_best(m, size.steps)) < len(SEEDS)]
    if missing:
        names = ", ".join(missing)
        parts.append(f"**Not done yet** (fewer than {len(SEEDS)} seeds): {names}.")
    (folder / "README.md").write_text(join_parts(parts), encoding="utf-8")


def main_rows(
    results: ExperimentResults, summaries: Summaries, steps: int
) -> Iterator[tuple[str, ...]]:
    """The LLM, every method at its best rate, one at equal time, and those below a sweep."""
    text, mixed = (f"100 = {results.before(test):.1f}%" for test in ("text", "mixed"))
    yield ("the LLM, no pictures", "", text, "100", mixed, "100", "", "0", *[""] * 4)
    yield (NO_LOOK, *[""] * 5, f"{results.guess:.1f}", *[""] * 5)

    def row(name: str, method: SweptMethod, rate: float, of: MethodSummary) -> tuple[str, ...]:
        return (
            name, f"{rate:g}", str(of.text), f"{of.text.same:.0f}", str(of.mixed),
            f"{of.mixed.same:.0f}", str(of.pictures), f"{of.drift_alone:.3f}",
            f"{of.drift_mixed:.3f}", f"{results.stage_1[method.align]:.0f}",
            f"{of.cpu_seconds:.0f}", str(of.seeds) + (f", {of.failed} failed" if of.failed else ""),
        )  # fmt: skip

    for _, method, summary in summaries:
        if (best := results.best(method, steps)) is not None:
            yield row(method.name, method, best.run.rate, summary)
    method, longer = BY_KEY[EQUAL_TIME], results.equal_steps(steps)
    if longer is not None and (best := results.best(method, steps)) is not None:
        rate = best.run.rate
        theirs = BY_KEY[TIMED_AGAINST].name
        name = f"{method.name}, {longer} steps: stage 2 as long as that of the {theirs}"
        if timed := summarize(results, results.at_rate(method, rate, longer)):
            yield row(name, method, rate, timed)
    for below in below_sweeps(results, steps):
        yield row(*below)


def below_sweeps(
    results: ExperimentResults, steps: int
) -> Iterator[tuple[str, SweptMethod, float, MethodSummary]]:
    """Name, method, rate and summary of the runs at rates below a sweep."""
    for key, rate in BELOW.items():
        method = BY_KEY[key]
        if summary := summarize(results, results.at_rate(method, rate, steps)):
            yield f"{method.name}, below its sweep", method, rate, summary


def seed_rows(summaries: Summaries) -> Iterator[tuple[str, ...]]:
    """The scores of every seed."""
    for _, method, of in summaries:
        tests = (of.text, of.mixed, of.pictures)
        yield (method.name, *(", ".join(f"{x:.0f}" for x in test.seeds) for test in tests))


def kind_table(
    test: str, first: str, scores: KindScores, summaries: Sequence[tuple[str, MethodSummary]]
) -> str:
    """Percent of the answers of each kind, mean over seeds, after a first row of `scores`."""
    rows = [(first, *(f"{100 * sum(of) / len(of):.0f}" for of in scores.values()))]
    rows += [(name, *(f"{of.kinds[test][kind]:.0f}" for kind in scores)) for name, of in summaries]
    return markdown_table(
        (f"{test}, percent", *(f"{kind} ({len(of)})" for kind, of in scores.items())), rows
    )


def sweep_rows(
    results: ExperimentResults, methods: Sequence[SweptMethod], steps: int
) -> Iterator[tuple[str, ...]]:
    """Every run of every sweep, on the validation part."""
    for method in methods:
        best = results.best(method, steps)
        for result in results.sweep(method, steps):
            scores = [f"{results.kept(result, test, 'validation'):.1f}" for test in TESTS]
            edge = result.run.rate in (method.rates[0], method.rates[-1])
            chosen = ("yes, edge" if edge else "yes") if result is best else ""
            yield (method.name, f"{result.run.rate:g}", *scores, chosen)


def methods_table() -> str:
    """The keys that each method adds to the common recipe."""
    rows = []
    for method in METHODS:
        keys = {"wings": method.wings, **method.keys}
        if "lora" not in keys:
            keys["freeze_llm"] = not method.trains_llm
        recipe = "; ".join(f"{name}: {value}" for name, value in keys.items())
        rows.append((method.name, method.align, f"`{recipe}`", ", ".join(method.swept)))
    return markdown_table(("method", "stage 1", "recipe", "swept rate of"), rows)


def sweep_curve(
    number: int, method: SweptMethod, results: ExperimentResults, steps: int
) -> MethodCurve:
    """A method's line in the second plot."""
    runs = [result for result in results.sweep(method, steps) if not result.failed]
    text, mixed, pictures = (
        [Estimate(results.kept(run, test, "validation"), None, None) for run in runs]
        for test in TESTS
    )
    return MethodCurve(number, method.name, pictures, {"text": text, "mixed": mixed})
