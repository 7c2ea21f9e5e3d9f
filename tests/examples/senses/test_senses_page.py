"""The study's page from made-up results: figures where a reader looks for them."""

import json
import random

import pytest

from wings.examples.senses.both_questions import BOTH, BOTH_KINDS, UNHEARD, UNSEEN
from wings.examples.senses.rows import FIRST, PRIMARY, ROWS
from wings.examples.senses.senses_measure import AFTER, OF_SENSE, TEXT, TEXTS
from wings.examples.senses.senses_page import write_page
from wings.examples.senses.senses_results import RowResult, add_result, read_results
from wings.examples.senses.senses_size import SensesSize
from wings.examples.senses.senses_tables import main_table, summarize

KINDS = {
    **{test: dict.fromkeys(BOTH_KINDS, 6) for test in (BOTH, UNSEEN, UNHEARD)},
    OF_SENSE["image"]: {"name": 6, "count": 6}, OF_SENSE["audio"]: {"word": 6, "sum": 6},
    **{test: {"sums": 8, "facts": 4} for test in TEXTS},
}  # fmt: skip
SHARES = {PRIMARY[0]: 0.75, PRIMARY[1]: 0.25}


def bits(test, share):
    """Every kind has the given share of right answers."""
    return {kind: [int(n < share * count) for n in range(count)]
            for kind, count in KINDS[test].items()}  # fmt: skip


@pytest.fixture(scope="module")
def llm():
    clusters = {
        test: {kind: [f"{kind} {n}" for n in range(count)] for kind, count in kinds.items()}
        for test, kinds in KINDS.items()
    }
    senses = (*OF_SENSE.values(), BOTH)
    return {
        "test": {"scores": {test: bits(test, 0.5) for test in TEXTS}},
        "told": {test: bits(test, 0.5) for test in senses},
        "blind": {test: bits(test, 0.0) for test in senses},
        "clusters": {"test": clusters},
        "kl": {"alone": [0, 0], "tokens": [4, 6], **{name: [1.0, 1.5] for name in AFTER.values()}},
    }


def record(key, seed):
    senses, rng = ROWS[key].senses, random.Random(f"{key} {seed}")
    tests = [TEXT, *(test for sense in senses for test in (OF_SENSE[sense], AFTER[sense]))]
    tests += [BOTH, UNSEEN, UNHEARD] if len(senses) > 1 else []
    share = SHARES.get(key, 0.5)
    return {
        "scores": {t: bits(t, 0.5 if t in TEXTS else share) for t in tests},
        "kl": {"alone": [0.0, 0.0], "tokens": [4, 6],
               **{AFTER[sense]: [rng.random(), 1.0] for sense in senses}},
        "trained": {"projector": 500_000, "audio_learners": 1_000_000},
        "cpu_seconds": 100.0 + seed, "memory_mib": 900, "scoring": 3.0,
    }  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory, llm):
    folder = tmp_path_factory.mktemp("results")
    (folder / "llm.json").write_text(json.dumps(llm))
    for seed in (0, 1, 2):
        for key in ROWS:
            add_result(folder, RowResult(key, seed, record(key, seed)))
    add_result(folder, RowResult("joint-full", 3, {"failed": "the loss is NaN"}))
    return folder


def rows_of(table):
    return {row[0]: row[1:] for line in table.splitlines()[2:]
            if (row := [cell.strip() for cell in line.strip("|").split("|")])}  # fmt: skip


def test_the_first_table_has_at_most_eight_rows_and_the_rest_follows(results):
    found = read_results(results)
    write_page(results, found, SensesSize())
    page = (results / "README.md").read_text()
    tables = [part for part in page.split("\n\n") if part.startswith("|  | need both |")]
    first, rest = (rows_of(table) for table in tables[:2])
    assert list(first) == [ROWS[key].title for key in FIRST] and len(first) <= 8
    assert first.keys() | rest.keys() == {row.title for row in ROWS.values()}
    assert not first.keys() & rest.keys()
    assert (results / "senses.png").stat().st_size > 10_000
    assert "the loss is NaN" in page and "Not done yet" not in page


def test_the_primary_comparison_is_the_paired_difference_in_questions_for_both(results):
    write_page(results, read_results(results), SensesSize())
    (sentence,) = [part for part in (results / "README.md").read_text().split("\n\n")
                   if part.startswith("**Primary comparison**")]  # fmt: skip
    # 5 of 6 and 2 of 6 in every kind: shares are rounded up by `bits`.
    assert "is +50.0 (" in sentence and "is +0.0 (+0.0 to +0.0) alone" in sentence


def test_a_row_without_a_sense_has_no_figures_of_it(results, llm):
    found = read_results(results)
    (row,) = rows_of(main_table([summarize(found, "image", llm)])).values()
    names = ["both", "pictures", "sounds", "text", "after a picture", "after a sound"]
    cells = dict(zip(names, row, strict=False))
    assert cells["both"] == cells["sounds"] == cells["after a sound"] == "-"
    assert cells["text"].startswith("100.0") and cells["pictures"].startswith("50.0")
    assert row[-3:] == ["1.5 M", "101", "3"]


def test_a_failed_seed_counts_as_nothing_right(results, llm):
    of = summarize(read_results(results), "joint-full", llm)
    assert of.seeds == 4 and of.tests[BOTH].value == pytest.approx(50 * 3 / 4)
