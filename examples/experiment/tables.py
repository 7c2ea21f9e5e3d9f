"""Tables and sentences that the pages of all studies share."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wings.eval.compare.bootstrap import Estimate
from wings.examples.pages import markdown_table
from wings.machine import processor_name

from .cells import BY_KEY, STAGE_1, Cell, Keys
from .cheap import LENGTH
from .recipes import TEXT_SHARE
from .runs import SEEDS, RunResult, chosen_rates, percent, runs_of, selection_score, sweep_runs
from .size import ExperimentSize
from .summary import CellSummary, difference, summarize

WANTED = 95  # percent of the LLM's right answers to text after a picture
COLUMNS = (
    "*Pictures* are percent of the questions about pictures; none of the pictures was trained on."
    " *Text after* counts right answers to text questions after an exchange about a picture, with"
    " those of the LLM after the same exchange in words as 100. *Text* is the same without the"
    " exchange. *Same* is percent of the answers after a picture that equal the LLM's after the"
    " words. *KL* is KL(LLM || model) in nats a token on held-out answers of the LLM, alone and"
    " after a picture. Brackets hold the 95% interval over questions and seeds (bootstrap; those"
    " that show the same drawing are one unit; seeds are those of both stages). *Trained* are the"
    " weights of the branch in millions; every cell trains the projector too. *Seconds* are those"
    " of one core for both stages, *MiB* the largest memory of a training process."
)
COST_COLUMN = (
    f"*Cost* is the time of a forward pass over {LENGTH:,} tokens, 256 of them an image's. The bare"
    " LLM's is 1. Cells whose models are alike share it, and it is empty"
    " where it was not measured."
)
TEXTS = (
    "Sums, reversals and capitals are answered by the likeliest of four choices, as the LLM writes"
    " hardly any right answer to them; instructions and facts are generated. Facts are not trained"
    " on. *Text* is right answers alone, *after* those after a picture, in percent of all."
)
BLANK = "*Blank* repeats the first picture questions with grey pictures."
SELECTION = (
    "Rates are chosen on the validation part with a seed of its own and shorter stages, by the mean"
    " of pictures and text after a picture (both in percent of all). The same rates hold in both"
    " stages, and for all cells of a branch."
)
BORROWED = "Where the study `stages` had these sweeps, its lines are copied: they are on its data."
HEADERS = (
    "cell", "pictures", "text after", "same", "text", "KL alone", "KL after", "trained", "seconds",
    "MiB", "seeds",
)  # fmt: skip
COST = "cost.json"
Cost = dict[str, Any]
Summaries = Sequence[tuple[Cell, CellSummary]]


def finished(results: Sequence[RunResult], cell: Cell, size: ExperimentSize) -> list[RunResult]:
    """The runs of a cell at its chosen rates, by seed."""
    seeds = sorted({result.run.seed for result in results if result.run.part == "run"})
    runs = runs_of(results, cell, seeds, size)
    return sorted((r for r in results if r.run in runs), key=lambda result: result.run.seed)


def of_whole_seeds(
    results: Sequence[RunResult], cells: Sequence[Cell], size: ExperimentSize
) -> list[RunResult]:
    """The results without runs of `cells` whose seed another of them lacks.

    Seeds differ by more than cells do, so rows are compared on the same ones. Before any seed is
    whole, all results are kept.
    """
    seeds = [{r.run.seed for r in finished(results, cell, size)} for cell in cells]
    whole, keys = set.intersection(*seeds), {cell.key for cell in cells}
    return [
        r for r in results
        if not whole or r.run.part != "run" or r.run.cell not in keys or r.run.seed in whole
    ]  # fmt: skip


def summaries_of(
    results: Sequence[RunResult], cells: Sequence[Cell], llm: dict[str, Any], size: ExperimentSize
) -> Summaries:
    """The cells that have a finished run with a model, each with its summary."""
    found = [(cell, summarize(finished(results, cell, size), llm)) for cell in cells]
    return [(cell, summary) for cell, summary in found if summary is not None]


def primary(
    results: Sequence[RunResult], pair: Sequence[Cell], llm: dict[str, Any], size: ExperimentSize
) -> str:
    """The primary comparison of two cells in words and figures."""
    ours, theirs = pair
    text = (
        f"**Primary comparison**, named before the first run: percent of pictures, at text after a"
        f" picture of at least {WANTED} percent of the LLM's, of *{ours.name}* against"
        f" *{theirs.name}*."
    )
    sides = [finished(results, cell, size) for cell in (ours, theirs)]
    for cell, runs in zip((ours, theirs), sides, strict=True):
        summary = summarize(runs, llm)
        if summary is None:
            return f"{text} It is not run yet."
        after = summary.tests["mixed"]
        reached = "reaches" if after.value >= WANTED else "does not reach"
        text += (
            f" The {cell.name.split(',')[0]} answers {bracketed(summary.tests['pictures'])} percent"
            f" of pictures, and {reached} the text, with {bracketed(after)}"
            f" ({seeds_of(len(runs))})."
        )
    found = difference(sides[0], sides[1], "pictures", llm)
    if found:
        text += f" The paired difference in pictures is {signed(found)} points."
    return f"{text} Every other comparison on this page is secondary."


def not_done(results: Sequence[RunResult], cells: Sequence[Cell], size: ExperimentSize) -> str:
    """The number of missing runs, and the cells that lack some; empty where there are none."""
    counts = {cell.name: len(finished(results, cell, size)) for cell in cells}
    missing = [name for name, count in counts.items() if count < len(SEEDS)]
    if not missing:
        return ""
    return (
        f"**Not finished**: {sum(counts.values())} of {len(cells) * len(SEEDS)} runs are in, and"
        f" figures may change. Fewer than {len(SEEDS)} seeds: {'; '.join(missing)}. Where a seed is"
        " whole, rows have whole seeds only."
    )


def seeds_of(count: int) -> str:
    """`1 seed` or `3 seeds`."""
    return f"{count} seed" if count == 1 else f"{count} seeds"


def bracketed(value: Estimate) -> str:
    """`81.2 (75.0 to 86.3)`."""
    return f"{value.value:.1f} ({value.low:.1f} to {value.high:.1f})"


def signed(value: Estimate) -> str:
    """`+3.2 (-1.0 to 7.4)`."""
    return f"{value.value:+.1f} ({value.low:+.1f} to {value.high:+.1f})"


def cell_table(summaries: Summaries, cost: Cost | None = None) -> str:
    """The main figures of every cell, with the measured cost where it is given."""
    if not cost:
        return markdown_table(HEADERS, map(row, summaries))
    rows = []
    for cell, of in summaries:
        ratio = cost_of(cost, cell, LENGTH)
        rows.append((*row((cell, of)), f"{ratio[0]:.2f}" if ratio else ""))
    return markdown_table((*HEADERS, "cost"), rows)


def read_cost(folder: Path) -> Cost:
    """The costs that a folder of results has; empty for none."""
    path = folder / COST
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def cost_of(cost: Cost, cell: Cell, length: int) -> list[float] | None:
    """Median and quartiles of a cell's cost; None where it is not measured.

    The model counts, not the stages that trained it.
    """
    ratios = cost.get("ratios", {}).get(str(length), {})
    alike = (key for key in ratios if key in BY_KEY and form_of(BY_KEY[key]) == form_of(cell))
    return next((ratios[key] for key in alike), None)


def form_of(cell: Cell) -> Keys:
    """The recipe keys that make a cell's model of stage 2."""
    adapters = {k: v for k, v in cell.stage_2.get("lora", {}).items() if k != "stages"}
    return {"wings": cell.stage_2["wings"], "lora": adapters}


def branch_weights(of: CellSummary) -> str:
    """`2.95 M`, the trained weights without the projector's."""
    branch = sum(count for group, count in of.trained.items() if group != "projector")
    return f"{branch / 1e6:.2f} M"


def row(pair: tuple[Cell, CellSummary]) -> tuple[str, ...]:
    """The row of a cell in the main table."""
    cell, of = pair
    tests = (bracketed(of.tests[test]) for test in ("pictures", "mixed"))
    kls = (f"{of.kl[name].value:.3f}" for name in ("alone", "mixed"))
    return (
        cell.name, *tests, bracketed(of.same), f"{of.tests['text'].value:.1f}", *kls,
        branch_weights(of), f"{of.seconds:.0f}", str(of.memory), str(len(of.seeds)),
    )  # fmt: skip


def reference(llm: dict[str, Any]) -> str:
    """The untouched LLM's figures in words."""
    text, mixed = (percent(llm["test"]["scores"][test]) for test in ("text", "mixed"))
    floor = sum(llm["kl"]["mixed"]) / sum(llm["kl"]["tokens"])
    return (
        f"The LLM alone answers {text:.1f} percent of the text questions, and {mixed:.1f} after the"
        f" exchange in words: these are the 100 of the table. That exchange moves the LLM itself by"
        f" a KL of {floor:.3f}, the floor of *KL after*. The most frequent answers of training get"
        f" {percent(llm['guess']['pictures']):.1f} percent of the pictures without a look."
    )


def made(size: ExperimentSize, command: str) -> str:
    """The command, machine and length of the runs."""
    return (
        f"`{command}`, one run a core of {processor_name()}; {size.align_steps} steps of"
        f" stage 1 and {size.steps} of stage 2, {size.batch_size} conversations a step, text turns"
        f" after {TEXT_SHARE:.0%} of the conversations of stage 2, seeds"
        f" {', '.join(map(str, SEEDS))} of both stages. Every run is a line of `runs.jsonl` with"
        " the commit of its code; the same command does what is missing there and writes this page."
    )


def kind_tables(summaries: Summaries, llm: dict[str, Any], tests: str) -> Iterator[str]:
    """Right answers by kind of text and of picture.

    Args:
        summaries: of the cells.
        llm: the content of `llm.json`.
        tests: says what the tests of pictures besides those by kind are.
    """
    if not summaries:
        return
    yield from ("## By kind", TEXTS, text_table(summaries, llm), tests)
    yield picture_table(summaries, llm)
    yield from ("## Every seed", seed_table(summaries))


def text_table(summaries: Summaries, llm: dict[str, Any]) -> str:
    """Right answers by kind of text: alone, and after a picture."""
    scores = llm["test"]["scores"]
    kinds = list(scores["mixed"])
    head = ["cell", *(f"{kind} ({len(scores['mixed'][kind])})" for kind in kinds)]
    rows = [
        [
            "the LLM, text / after words",
            *(
                _two(percent({k: scores["text"][k]}), percent({k: scores["mixed"][k]}))
                for k in kinds
            ),
        ]
    ]
    for cell, of in summaries:
        rows.append([cell.name, *(_two(of.kinds["text"][k], of.kinds["mixed"][k]) for k in kinds)])
    return markdown_table(head, rows)


def _two(alone: float, after: float) -> str:
    return f"{alone:.0f} / {after:.0f}"


def picture_table(summaries: Summaries, llm: dict[str, Any]) -> str:
    """Right answers by kind of picture, with the tests of style and of blank pictures."""
    guess = llm["guess"]
    kinds = list(guess["pictures"])
    others = [test for test in ("style", "blank") if any(test in of.tests for _, of in summaries)]
    head = ["cell", *(f"{kind} ({len(guess['pictures'][kind])})" for kind in kinds), *others]
    guessed = (f"{percent({kind: guess['pictures'][kind]}):.0f}" for kind in kinds)
    unseen = (f"{percent(guess[test]):.0f}" if test in guess else "" for test in others)
    rows = [["the most frequent answer, no look", *guessed, *unseen]]
    for cell, of in summaries:
        values = (bracketed(of.tests[t]) if t in of.tests else "" for t in others)
        shown = (f"{of.kinds['pictures'][kind]:.0f}" for kind in kinds)
        rows.append([cell.name, *shown, *values])
    return markdown_table(head, rows)


def seed_table(summaries: Summaries) -> str:
    """Pictures, text after a picture and its KL of every seed."""
    rows = [
        (cell.name, seed, f"{pictures:.1f}", f"{mixed:.1f}", f"{kl:.3f}")
        for cell, of in summaries
        for seed, (pictures, mixed, kl) in of.seeds.items()
    ]
    return markdown_table(("cell", "seed", "pictures", "text after", "KL after"), rows)


def sweep_table(results: Sequence[RunResult], cells: Sequence[Cell], size: ExperimentSize) -> str:
    """Every run of the sweeps that some cells need."""
    swept = {cell.swept: cell for cell in cells}
    rows = []
    for key, cell in swept.items():
        best = chosen_rates(results, cell, size)
        for result in results:
            if result.run in sweep_runs(cell, size):
                rates = result.run.rates
                scores = result.record.get("scores", {})
                shown = [
                    f"{percent(scores[t]):.1f}" if scores else "failed"
                    for t in ("pictures", "mixed")
                ]
                mark = "yes" if rates == best else ""
                rows.append((BY_KEY[key].name, f"{rates.projector:g}", f"{rates.branch:g}", *shown,
                             f"{selection_score(result):.1f}", mark))  # fmt: skip
    head = ("swept with", "projector's rate", "branch's rate", "pictures", "text after", "mean")
    return markdown_table((*head, "chosen"), rows)


def recipes(cells: Sequence[Cell]) -> str:
    """The recipe keys of some cells."""
    rows = [(cell.name, cell.stage_1, f"`{shown(cell.stage_2)}`") for cell in cells]
    starts = dict.fromkeys(cell.stage_1 for cell in cells)
    stages = "; ".join(f"*{name}*: `{shown(STAGE_1[name])}`" for name in starts)
    table = markdown_table(("cell", "stage 1", "keys of stage 2"), rows)
    return f"{table}\n\nStage 1, which trains the projector and what these keys name: {stages}."


def shown(keys: dict[str, Any]) -> str:
    """Recipe keys in one line."""
    return "; ".join(f"{name}: {value}" for name, value in keys.items())
