"""The page of the gate experiment: its figures are those of its runs."""

import json
import re
import shutil
from pathlib import Path

import pytest

from wings.examples.gates.gates_page import write_page
from wings.examples.gates.summary import GateResults
from wings.examples.gates.trainings import FULL
from wings.examples.over_seeds import digits, mean

RESULTS = Path(__file__).parents[3] / "eval" / "results" / "gates"


def test_the_page_is_made_from_the_runs(tmp_path):
    for name in ("runs.jsonl", "questions.json", "findings.md"):
        shutil.copy(RESULTS / name, tmp_path / name)
    write_page(tmp_path)
    assert (tmp_path / "README.md").read_text() == (RESULTS / "README.md").read_text()
    assert (RESULTS / "gates.png").stat().st_size > 10_000


def test_figures_of_the_table_are_recomputed_from_the_digits():
    """Without any function of the experiment."""
    lines = [json.loads(line) for line in (RESULTS / "runs.jsonl").read_text().splitlines()]
    questions = json.loads((RESULTS / "questions.json").read_text())
    page = (RESULTS / "README.md").read_text()
    first_table = page.split("| gate | seeds |")[1].split("\n\n")[0]
    rows = {
        row.split(" | ")[0].strip("| "): row.split(" | ")[1:] for row in first_table.split("\n")
    }
    variants = {line["variant"] for line in lines if line["size"] == FULL}
    assert variants <= set(rows)
    for variant in variants:
        found = [ln for ln in lines if (ln["size"], ln["variant"]) == (FULL, variant)]
        cells = rows[variant]
        assert cells[0] == str(len(found)) == str(len({line["seed"] for line in found}))
        texts = [line["right"]["mixed"] for line in found]
        assert cells[1].startswith(f"{percent(texts):.1f} ")
        sums = [n for n, kind in enumerate(questions["kinds"]["mixed"]) if kind == "arithmetic"]
        assert cells[2] == f"{percent([''.join(t[n] for n in sums) for t in texts]):.1f}"
        assert cells[3].startswith(f"{percent([line['same'] for line in found]):.1f} ")
        kl = sum(sum(line["kl"]) for line in found) / len(found) - sum(questions["floor"])
        assert cells[4].startswith(f"{kl / sum(questions['tokens']):.3f} ")
        for cell, test in ((5, "pictures"), (6, "follow_ups")):
            share = percent([line["right"][test] for line in found])
            assert cells[cell].startswith(f"{share:.1f} ")
    # Code that differs from its commit has `dirty`, or in older lines a plus sign.
    assert all(re.fullmatch("[0-9a-f]{12}|[0-9a-f]{40}", line["commit"]) for line in lines)
    assert not any(line.get("dirty") for line in lines)


def percent(texts):
    return 100 * sum(text.count("1") for text in texts) / sum(map(len, texts))


def results(right, opened=None):
    """Two variants of two seeds: `none`, and one that was put on it."""
    kinds = {"mixed": ["arithmetic", "facts"], "pictures": ["a"] * 2, "follow_ups": ["b"] * 4}
    made = [
        {"size": FULL, "seed": seed, "variant": name, "trained": "none", "same": "11",
         "kl": [0.3, 0.1], "right": {"mixed": "10", "pictures": "11", "follow_ups": text}}
        for seed in (1, 2)
        for name, text in (("none", "1100"), ("put", right))
    ]  # fmt: skip
    return GateResults(made, {"kinds": kinds, "floor": [0.1, 0.1], "tokens": [1, 3], "llm": "11"})


@pytest.mark.parametrize(("right", "share"), [("1100", 0), ("1011", 50), ("0011", 100)])
def test_a_false_close_is_right_without_and_wrong_with_the_gate(right, share):
    made = results(right)
    assert made.false_closes(FULL, "put") == share
    assert made.false_closes(FULL, "none") is None


def test_figures_over_seeds_and_questions():
    made = results("1110")
    lines = made.of(FULL, "put")
    assert made.right(lines, "follow_ups").value == 75
    assert made.right(lines, "mixed", "arithmetic").value == 100
    assert made.above_floor(lines).value == pytest.approx(0.05)
    assert made.floor == pytest.approx(0.05) and made.llm == 100
    points = made.difference(FULL, "put", "none", "follow_ups")
    assert points.value == 25 and points.low < 25 < points.high
    assert made.difference(FULL, "put", "absent", "mixed") is None


def test_an_interval_grows_with_the_spread_between_seeds():
    alike = mean([digits("10" * 200)] * 3)
    apart = mean([digits("00" * 200), digits("10" * 200), digits("11" * 200)])
    assert alike.value == apart.value == 0.5
    assert alike.high - alike.low < 0.12 < 0.5 < apart.high - apart.low
