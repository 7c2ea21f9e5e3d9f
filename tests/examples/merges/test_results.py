"""The page of the merge results is what `runs.jsonl` says."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import wings.examples.merges.merges_page as pages
from wings.examples.merges.children import QUICKSTART
from wings.examples.merges.merges_run import missing_groups
from wings.examples.merges.results import MergeResults
from wings.examples.merges.variants import GENTLE, GROUPS, UNMERGED

FOLDER = Path(__file__).parents[3] / "eval" / "results" / "merge"
TESTS = ("text", "conversations", "pictures")
COUNT = 20


def line(seed, model, text, after, pictures, group="full"):
    """A line with so many right answers to choose by, and to report, a test."""
    scores = {}
    for test, (choice, report) in zip(TESTS, (text, after, pictures), strict=True):
        half = COUNT // 2
        scores[test] = "1" * choice + "0" * (half - choice) + "1" * report + "0" * (half - report)
    return {
        "base": QUICKSTART, "seed": seed, "group": group, "model": model, "scores": scores,
        "alone": [0.1] * 10, "after": [0.4] * 10,
    }  # fmt: skip


def made(folder, lines):
    half = COUNT // 2
    parts = ["choice"] * half + ["report"] * half
    known = {"kinds": ["sums"] * COUNT, "clusters": list(range(COUNT)), "parts": parts}
    questions = {
        QUICKSTART: {
            **dict.fromkeys(TESTS, known),
            "llm": dict.fromkeys(TESTS, "1" * COUNT),
            "tokens": [2] * 10,
            "floor": [0.1] * 10,
        }
    }
    (folder / "questions.json").write_text(json.dumps(questions))
    (folder / "runs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    return MergeResults.read(folder)


def test_figures_are_those_of_the_reported_questions(tmp_path):
    lines = [
        line(21, UNMERGED, (5, 6), (5, 4), (8, 9)),
        line(21, "linear 0.5", (9, 8), (9, 8), (8, 7)),
        line(21, "linear 0.25", (10, 10), (10, 10), (3, 3)),
        # Not a sweep of one weight, so it is not chosen.
        line(21, "linear, table 0, rest 1", (10, 10), (10, 10), (10, 10)),
        line(22, UNMERGED, (5, 8), (5, 4), (8, 9)),
        line(22, "linear 0.5", (5, 8), (5, 8), (7, 7)),
        line(22, "linear 0.25", (10, 10), (10, 10), (3, 3)),
        line(22, "linear, table 0, rest 1", (10, 10), (10, 10), (10, 10)),
    ]
    results = made(tmp_path, lines)
    child = results.of(QUICKSTART, "full", UNMERGED)
    assert results.right(child, "text").value == pytest.approx(70)
    assert results.kl(child, "after").value == pytest.approx(0.2)
    assert results.floor(QUICKSTART) == pytest.approx(0.05)
    chosen = [results.chosen(QUICKSTART, "full", seed) for seed in (21, 22)]
    assert [one["model"] for one in chosen] == ["linear 0.5", UNMERGED]
    found = results.difference(chosen, child, "text")
    assert found.value == pytest.approx(10) and found.low <= 0 <= found.high
    pages.write_page(tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "text alone 10.0" in page and "| linear 0.5 | 80.0" in page
    assert (tmp_path / "merges.png").stat().st_size > 10_000
    assert missing_groups(tmp_path, QUICKSTART, 21) == ["wings", "two"]
    assert missing_groups(tmp_path, QUICKSTART, 23) == list(GROUPS)


def test_a_line_and_its_page_need_no_other_groups(tmp_path):
    assert missing_groups(tmp_path, QUICKSTART, 21) == list(GROUPS)
    pages.write_page(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_committed_page_is_that_of_its_lines(tmp_path, monkeypatch):
    for name in ("runs.jsonl", "questions.json", "findings.md"):
        shutil.copy(FOLDER / name, tmp_path / name)
    # The plot is not compared.
    monkeypatch.setattr(pages, "plot", lambda results: results)
    monkeypatch.setattr(MergeResults, "savefig", lambda self, path, dpi: None, raising=False)
    pages.write_page(tmp_path)
    assert (tmp_path / "README.md").read_text() == (FOLDER / "README.md").read_text()
    results = MergeResults.read(FOLDER)
    lines = results.of(QUICKSTART, "full", GENTLE)
    parts = np.array(results.questions[QUICKSTART]["text"]["parts"]) == "report"
    means = [np.mean([float(d) for d in ln["scores"]["text"]], where=parts) for ln in lines]
    assert results.right(lines, "text").value == pytest.approx(100 * np.mean(means))
