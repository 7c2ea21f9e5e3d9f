"""Tables and figures of the study's page."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wings.eval.compare.bootstrap import Estimate
from wings.examples.experiment.runs import percent
from wings.examples.experiment.summary import difference, kl_estimate, percent_of, right_sums
from wings.examples.experiment.tables import bracketed, signed
from wings.examples.pages import markdown_table

from .both_questions import BOTH, UNHEARD, UNSEEN
from .rows import AUDIO, CHOSEN_RULE, IMAGE, ROWS, RULES, Row
from .senses_measure import AFTER, OF_SENSE, TESTS, TEXT, TEXTS
from .senses_results import RowResult, results_of

PICTURES, SOUNDS = OF_SENSE[IMAGE], OF_SENSE[AUDIO]
SHOWN = (BOTH, PICTURES, SOUNDS, TEXT, *AFTER.values())
NAMES = {
    BOTH: "need both", PICTURES: "pictures", SOUNDS: "sounds", TEXT: "text",
    AFTER[IMAGE]: "text after a picture", AFTER[AUDIO]: "text after a sound",
    UNSEEN: "need both, grey picture", UNHEARD: "need both, silence",
}  # fmt: skip
KLS = {"alone": "KL alone", AFTER[IMAGE]: "KL after a picture", AFTER[AUDIO]: "KL after a sound"}
# Pairs of rows whose difference is a question of the study; the tests that it is taken on.
PAIRS: Sequence[tuple[str, str, Sequence[str]]] = (
    *(
        (f"composed-{CHOSEN_RULE}", f"composed-{rule}", (BOTH,))
        for rule in RULES
        if rule != CHOSEN_RULE
    ),
    (f"composed-{CHOSEN_RULE}", IMAGE, (PICTURES, AFTER[IMAGE])),
    (f"composed-{CHOSEN_RULE}", AUDIO, (SOUNDS, AFTER[AUDIO])),
    ("joint", IMAGE, (PICTURES, AFTER[IMAGE])),
    ("joint", AUDIO, (SOUNDS, AFTER[AUDIO])),
    ("composed-more", f"composed-{CHOSEN_RULE}", SHOWN),
    ("composed-more", "joint-more", SHOWN),
    ("merged-average", "joint-full", SHOWN),
    ("image-audio-full", "joint-full", SHOWN),
    ("audio-image-full", "joint-full", SHOWN),
    (f"composed-{CHOSEN_RULE}", "joint-full", SHOWN),
)
LLM = Mapping[str, Any]  # the content of `llm.json`


@dataclass(frozen=True)
class RowSummary:
    """The results of a row over questions and seeds.

    Attributes:
        row: the row.
        tests: percent of each test; text in percent of the LLM's right answers.
        kl: KL(LLM || model) in nats a token, alone and after each sense.
        kinds: percent by test and kind, mean over seeds.
        trained: weights that trainings moved.
        seconds: of one core, all trainings, mean over seeds.
        seeds: number of seeds.
    """

    row: Row
    tests: dict[str, Estimate]
    kl: dict[str, Estimate]
    kinds: dict[str, dict[str, float]]
    trained: int
    seconds: float
    seeds: int


def summarize(results: Sequence[RowResult], key: str, llm: LLM) -> RowSummary | None:
    """Summarizes a row; None where no seed has a model."""
    runs = results_of(results, key)
    records = [run.record for run in runs if not run.failed]
    if not records:
        return None
    tests = [test for test in TESTS if test in records[0]["scores"]]
    return RowSummary(
        ROWS[key],
        {test: percent_of(right_sums(runs, test, llm), test, llm) for test in tests},
        {name: kl_estimate([record["kl"] for record in records], name)
         for name in KLS if name in records[0]["kl"]},
        {
            test: {
                kind: 100 * sum(np.mean(record["scores"][test][kind]) for record in records)
                / len(runs)
                for kind in records[0]["scores"][test]
            }
            for test in tests
        },
        sum(records[0]["trained"].values()),
        float(np.mean([record["cpu_seconds"] for record in records])),
        len(runs),
    )  # fmt: skip


def main_table(summaries: Sequence[RowSummary]) -> str:
    """The main figures of some rows."""
    head = ("", *(NAMES[test] for test in SHOWN), *KLS.values(), "trained", "seconds", "seeds")
    return markdown_table(head, map(_main_row, summaries))


def _main_row(of: RowSummary) -> tuple[str, ...]:
    tests = (bracketed(of.tests[test]) if test in of.tests else "-" for test in SHOWN)
    kls = (f"{of.kl[name].value:.3f}" if name in of.kl else "-" for name in KLS)
    return (
        of.row.title, *tests, *kls, f"{of.trained / 1e6:.1f} M", f"{of.seconds:.0f}",
        str(of.seeds),
    )  # fmt: skip


def reference(llm: LLM) -> str:
    """The untouched LLM's figures in words."""
    told, blind = (
        ", ".join(
            f"{percent(llm[form][test]):.1f} percent of {name}"
            for test, name in (
                (BOTH, "the questions that need both"), (PICTURES, "those of pictures"),
                (SOUNDS, "those of sounds"),
            )
        )
        for form in ("told", "blind")
    )  # fmt: skip
    texts = ", ".join(
        f"{percent(llm['test']['scores'][test]):.1f} percent of {NAMES[test]}" for test in TEXTS
    )
    floors = " and ".join(
        f"{sum(llm['kl'][name]) / sum(llm['kl']['tokens']):.3f}" for name in AFTER.values()
    )
    return (
        f"**The ceiling:** with picture and sound in words, the untouched LLM answers {told}."
        f" Without picture and sound it answers {blind}. It answers {texts}, where exchanges are in"
        " words: these are the 100 of the columns of text. Such exchanges move the LLM itself by a"
        f" KL of {floors}, the floors of *KL after a picture* and *after a sound*."
    )


def primary(results: Sequence[RowResult], pair: Sequence[str], llm: LLM) -> str:
    """The comparison that was named before the runs, in words and figures."""
    ours, theirs = (ROWS[key].title for key in pair)
    text = (
        f"**Primary comparison**, named before the first run: *{ours}* against *{theirs}*, in"
        " questions that need both a picture and a sound, at text kept. Neither was trained on such"
        " a question."
    )
    first, second = (results_of(results, key) for key in pair)
    found = [difference(first, second, test, llm) for test in (BOTH, *TEXTS)]
    if found[0] is None:
        return f"{text} It is not run yet."
    both, *texts = (signed(one) for one in found if one is not None)
    return (
        f"{text} The paired difference is {both} points; that of text is {texts[0]} alone,"
        f" {texts[1]} after a picture and {texts[2]} after a sound, in points of the LLM's right"
        " answers. Every other comparison on this page is secondary."
    )


def pair_table(results: Sequence[RowResult], llm: LLM) -> str:
    """Paired differences that answer the study's questions; "" before there is one."""
    rows = []
    for ours, theirs, tests in PAIRS:
        first, second = results_of(results, ours), results_of(results, theirs)
        found = {test: difference(first, second, test, llm) for test in tests}
        if any(found.values()):
            cells = (signed(one) if (one := found.get(test)) else "" for test in SHOWN)
            rows.append((f"{ROWS[ours].title} - {ROWS[theirs].title}", *cells))
    return markdown_table(("", *(NAMES[test] for test in SHOWN)), rows) if rows else ""


def kind_tables(summaries: Sequence[RowSummary], llm: LLM) -> Iterator[str]:
    """Right answers by kind, of each test of senses and of text."""
    for test in (BOTH, PICTURES, SOUNDS):
        kinds = list(llm["told"][test])
        rows = [
            [f"the LLM, {name}", *(f"{percent({k: llm[form][test][k]}):.0f}" for k in kinds)]
            for form, name in (("told", "in words"), ("blind", "without"))
        ]
        rows += [
            [of.row.title, *(f"{of.kinds[test][kind]:.0f}" for kind in kinds)]
            for of in summaries
            if test in of.tests
        ]
        yield markdown_table((NAMES[test], *kinds), rows)
    scores = llm["test"]["scores"]
    kinds = list(scores[TEXT])
    known = {test: {kind: percent({kind: scores[test][kind]}) for kind in kinds} for test in TEXTS}
    models = (("the LLM", known), *((of.row.title, of.kinds) for of in summaries))
    rows = [[title, *(_texts_of(found, kind) for kind in kinds)] for title, found in models]
    yield markdown_table(("text / after a picture / after a sound", *kinds), rows)


def _texts_of(kinds: Mapping[str, Mapping[str, float]], kind: str) -> str:
    """Percent of a kind of text, alone and after each sense."""
    return " / ".join(f"{kinds[test][kind]:.0f}" if test in kinds else "-" for test in TEXTS)


def blank_table(summaries: Sequence[RowSummary]) -> str:
    """Questions that need both, with one of the two taken away; "" before there is one."""
    tests = (BOTH, UNSEEN, UNHEARD)
    rows = [
        (of.row.title, *(bracketed(of.tests[test]) for test in tests))
        for of in summaries
        if UNSEEN in of.tests
    ]
    return markdown_table(("", *(NAMES[test] for test in tests)), rows) if rows else ""


def seed_table(results: Sequence[RowResult], llm: LLM) -> str:
    """Every seed of every row."""
    rows = []
    for key in ROWS:
        for run in results_of(results, key):
            if run.failed:
                rows.append((ROWS[key].title, run.seed, run.record["failed"], *[""] * 5))
                continue
            scores = run.record["scores"]
            cells = (
                f"{percent_of(right_sums([run], test, llm), test, llm).value:.1f}"
                if test in scores
                else "-"
                for test in SHOWN
            )
            rows.append((ROWS[key].title, run.seed, *cells))
    return markdown_table(("", "seed", *(NAMES[test] for test in SHOWN)), rows)
