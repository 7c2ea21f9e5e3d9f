"""The page of the study `turns`: turns that need both a picture and a fact."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wings.eval.compare.bootstrap import Estimate
from wings.examples.pages import join_parts, markdown_table

from .cells import BY_KEY
from .experiment_page import MODELS, findings
from .measure import KindScores
from .runs import RunResult, percent, read_runs
from .size import ExperimentSize
from .summary import cluster_sums, estimate
from .tables import (
    BLANK,
    BORROWED,
    COLUMNS,
    SELECTION,
    bracketed,
    cell_table,
    finished,
    kind_tables,
    made,
    not_done,
    recipes,
    reference,
    summaries_of,
    sweep_table,
)
from .turns import BOTH, KNOWN, SEEN, TOLD, UNSEEN

TURNS_PAGE = "README.md"
KEPT = "kept.jsonl"
# Learners and LoRA with and without a gate, and a fine-tune, which has no switch.
TURNS = tuple(
    BY_KEY[key]
    for key in ("learner-both-attended", "lora-both-attended", "learner-both-open",
                "lora-both-open", "full")
)  # fmt: skip
SETUP = (
    f"{MODELS} drawings as in the study `stages`, and 48 flags (npm's world-countries, ODbL 1.0) by"
    " the country's name. No turn that needs both is trained on. Each is asked with both of its"
    " halves: the name or the number in the picture, and the fact alone. *Given both halves* is"
    " percent of the turns that are right, among those whose halves the same model has right. *All*"
    " is percent of all turns; *grey* repeats them with a grey picture; *halves* is the mean number"
    " of turns with both halves right. Capitals, continents and names backwards are the likeliest"
    " of four choices (25 percent by chance); sums are generated. Brackets hold the 95% interval"
    " over questions and seeds; those that show the same drawing or flag are one unit."
)
HEAD = (
    "cell", "given both halves", "halves", "all", "grey", "picture half", "fact half", "seeds",
)  # fmt: skip
OTHERS = (
    "Checkpoints that `wings experiment --keep` left. They were trained on drawings and on no flag,"
    " so that turns about flags are hardly among those with both halves right."
)
PRIMARY_TEXT = (
    "**The comparison**, named before the first run: percent of the turns given both halves, of the"
    " image learner against guarded LoRA, both with the attended gate and trained in both stages."
    " Every other comparison on this page is secondary."
)


def write_turns_page(folder: Path, results: Sequence[RunResult], size: ExperimentSize) -> None:
    """Writes `README.md` from `llm.json` and the runs that are finished."""
    llm = json.loads((folder / "llm.json").read_text(encoding="utf-8"))
    cells = list(TURNS)
    cells += [cell for cell in BY_KEY.values() if cell not in TURNS]
    summaries = summaries_of(results, cells, llm, size)
    runs = {cell.name: with_model(finished(results, cell, size)) for cell, _ in summaries}
    parts = ["# Turns that need a picture and a fact", PRIMARY_TEXT, findings(folder)]
    if summaries:
        parts += [
            both_table(runs, llm),
            told(llm),
            SETUP,
            made(size, "wings experiment --study turns"),
        ]
        parts += ["## By kind of turn", both_kinds(runs, llm)]
    if others := of_others(folder):
        parts += ["## Cells of the other studies", OTHERS, both_table(others, llm)]
    if summaries:
        parts += ["## All tests", cell_table(summaries), reference(llm), COLUMNS]
    parts += kind_tables(summaries, llm, BLANK)
    parts += ["## The sweeps", SELECTION, BORROWED, sweep_table(results, TURNS, size)]
    parts += ["## The recipes", recipes(TURNS), not_done(results, TURNS, size)]
    (folder / TURNS_PAGE).write_text(join_parts(parts), encoding="utf-8")


def of_others(folder: Path) -> dict[str, list[Mapping[str, KindScores]]]:
    """Scores of the checkpoints that other studies kept, by the cell's name."""
    found: dict[str, list[Mapping[str, KindScores]]] = {}
    for result in read_runs(folder, KEPT):
        found.setdefault(BY_KEY[result.run.cell].name, []).append(result.record["scores"])
    return found


def with_model(runs: Sequence[RunResult]) -> list[Mapping[str, KindScores]]:
    """The scores of the runs that did not fail."""
    return [run.record["scores"] for run in runs if not run.failed]


def halves_right(scores: Mapping[str, KindScores]) -> KindScores:
    """1 for each turn whose two halves are right, by kind."""
    return {
        kind: [a & b for a, b in zip(scores[SEEN][kind], scores[KNOWN][kind], strict=True)]
        for kind in scores[BOTH]
    }


def all_right(scores: Mapping[str, KindScores], test: str = BOTH) -> KindScores:
    """1 for each turn that is right with both of its halves, by kind."""
    return {
        kind: [a & b for a, b in zip(halves, scores[test][kind], strict=True)]
        for kind, halves in halves_right(scores).items()
    }


def given_halves(
    runs: Sequence[Mapping[str, KindScores]], clusters: Mapping[str, Sequence[str]],
    kinds: Sequence[str],
) -> Estimate | None:  # fmt: skip
    """Percent of the turns of some kinds that are right, among those with both halves right.

    Args:
        runs: the scores of each seed.
        clusters: of the items of the turns, by kind.
        kinds: of turns.

    Returns:
        None where no turn has both halves right.
    """
    sums = []
    for marked in (all_right, halves_right):
        of_runs = [{kind: marked(scores)[kind] for kind in kinds} for scores in runs]
        sums.append(np.stack([cluster_sums(scores, clusters) for scores in of_runs]))
    return estimate(100 * sums[0], sums[1]) if sums[1].any() else None


def both_table(
    runs: Mapping[str, Sequence[Mapping[str, KindScores]]], llm: Mapping[str, Any]
) -> str:
    """Turns given both halves, all turns, and the same with grey pictures, of every cell."""
    clusters = llm["clusters"]["test"][BOTH]
    rows = []
    for name, scores in runs.items():
        found = given_halves(scores, clusters, list(clusters))
        plain = (mean_percent(scores, test) for test in (BOTH, UNSEEN, SEEN, KNOWN))
        count = np.mean([sum(map(sum, halves_right(one).values())) for one in scores])
        rows.append(
            (name, bracketed(found) if found else "", f"{count:.1f}",
             *(f"{value:.1f}" for value in plain), len(scores))
        )  # fmt: skip
    return markdown_table(
        (
            "cell",
            "given both halves",
            "halves",
            "all",
            "grey",
            "picture half",
            "fact half",
            "seeds",
        ),
        rows,
    )


def both_kinds(
    runs: Mapping[str, Sequence[Mapping[str, KindScores]]], llm: Mapping[str, Any]
) -> str:
    """Turns given both halves by kind, with the mean number of such turns."""
    clusters = llm["clusters"]["test"][BOTH]
    rows = []
    for name, scores in runs.items():
        row = [name]
        for kind in clusters:
            found = given_halves(scores, clusters, [kind])
            count = np.mean([sum(halves_right(one)[kind]) for one in scores])
            row.append(f"{bracketed(found)} of {count:.1f}" if found else "")
        rows.append(row)
    return markdown_table(("cell", *clusters), rows)


def mean_percent(runs: Sequence[Mapping[str, KindScores]], test: str) -> float:
    """Percent of a test, mean over seeds."""
    return float(np.mean([percent(scores[test]) for scores in runs]))


def told(llm: Mapping[str, Any]) -> str:
    """The untouched LLM, which is told what the picture shows."""
    known, words = (llm["turns"][test] for test in (KNOWN, TOLD))
    both = [a & b for kind in words for a, b in zip(known[kind], words[kind], strict=True)]
    count = sum(map(sum, known.values()))
    return (
        f"The untouched LLM has {percent(known):.1f} percent of the facts right. Told in words what"
        f" the picture shows, it has {percent(words):.1f} percent of the turns right, and"
        f" {100 * sum(both) / count:.1f} percent of those whose fact it knows."
        if count
        else "The untouched LLM has no fact right."
    )
