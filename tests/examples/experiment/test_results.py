"""The experiment's runs, summaries and page: order of runs, choice of rates, tables."""

import json
import re
import shutil
from pathlib import Path

import pytest

from wings.examples.experiment import experiment_page
from wings.examples.experiment.dataset import ExperimentSize
from wings.examples.experiment.experiment_page import write_page
from wings.examples.experiment.experiment_run import add_result, read_results
from wings.examples.experiment.measure import guess
from wings.examples.experiment.methods import ALIGNS, BY_KEY, METHODS
from wings.examples.experiment.runs import (
    BELOW,
    FIRST,
    SECOND,
    SEEDS,
    ExperimentResults,
    ExperimentRun,
    RunResult,
    pending_runs,
)
from wings.examples.experiment.summary import PAIRS, difference, paired_rows, summarize

STEPS = 10


def kinds(right: int, of: int) -> dict[str, list[float]]:
    return {"a": [1.0] * right + [0.0] * (of - right)}


LLM = {part: {"text": kinds(20, 40), "mixed": kinds(10, 40)} for part in ("validation", "test")}
LLM["guess"] = kinds(2, 10)
STAGE_1 = dict.fromkeys(ALIGNS, 7.0)


def result(run: ExperimentRun, validation: int, test: int, cpu_seconds: float = 100.0) -> RunResult:
    """So many of twenty text answers that the LLM gave, in both parts; the rest is fixed."""
    scores = {
        part: {"text": kinds(right, 40), "mixed": kinds(5, 40), "pictures": kinds(8, 10)}
        for part, right in (("validation", validation), ("test", test))
    }
    scores["drift"] = {"alone": 0.25, "mixed": 0.5}
    found = {"scores": scores, "cpu_seconds": cpu_seconds, "seconds": cpu_seconds, "losses": [1.0]}
    return RunResult(run, found)


def test_sweeps_come_first_then_seeds_at_the_best_rate_then_the_row_at_equal_time():
    two = (BY_KEY["wings-frozen"], BY_KEY["full"])
    done: list[RunResult] = []
    order = []
    while run := next(pending_runs(ExperimentResults(LLM, done, STAGE_1), STEPS, two), None):
        order.append(run)
        middle = run.rate == BY_KEY[run.method].rates[1]
        seconds = 200.0 if run.method == "full" else 100.0
        # The test part would choose another rate: it must not be asked.
        done.append(result(run, 18 if middle else 10, 10 if middle else 18, seconds))
    sweeps, seeds, timed, below = order[:6], order[6:10], order[10:13], order[13:]
    assert {run.seed for run in sweeps} == {SEEDS[0]}
    assert [run.rate for run in sweeps] == [*two[0].rates, *two[1].rates]
    assert [(run.method, run.seed) for run in seeds] == [
        (method.key, seed) for seed in SEEDS[1:] for method in two
    ]
    assert all(run.rate == BY_KEY[run.method].rates[1] for run in seeds)
    assert [(run.method, run.steps) for run in timed] == [("wings-frozen", 2 * STEPS)] * 3
    assert [(run.method, run.rate) for run in below] == [("full", BELOW["full"])] * 3
    assert len(set(order)) == len(order)


def test_later_methods_wait_until_the_first_are_through():
    names = [run.method for run in pending_runs(ExperimentResults(LLM, [], STAGE_1), STEPS)]
    assert set(names[: 3 * FIRST]) == {method.key for method in METHODS[:FIRST]}
    assert set(names[3 * FIRST : 3 * SECOND]) == {method.key for method in METHODS[FIRST:SECOND]}
    assert set(names) == set(BY_KEY)


def test_rates_below_a_sweep_are_run_with_every_seed_and_never_chosen():
    method = BY_KEY["full"]
    assert BELOW[method.key] < method.rates[0]
    done: list[RunResult] = []
    while run := next(pending_runs(ExperimentResults(LLM, done, STAGE_1), STEPS, (method,)), None):
        # The best of all on the validation part.
        done.append(result(run, 20 if run.rate == BELOW["full"] else 10, 10))
    results = ExperimentResults(LLM, done, STAGE_1)
    assert [one.run.seed for one in results.at_rate(method, BELOW["full"], STEPS)] == list(SEEDS)
    assert [one.run.rate for one in results.sweep(method, STEPS)] == list(method.rates)
    assert results.best(method, STEPS).run.rate == method.rates[0]


def test_rates_below_a_sweep_are_set_against_what_keeps_most():
    ours, theirs = BY_KEY["wings-attended"], BY_KEY["full"]
    done: list[RunResult] = []
    while run := next(
        pending_runs(ExperimentResults(LLM, done, STAGE_1), STEPS, (ours, theirs)), None
    ):
        done.append(result(run, 10, 20 if run.method == ours.key else 10))
    rows = {
        name: cells for name, *cells in paired_rows(ExperimentResults(LLM, done, STAGE_1), STEPS)
    }
    found = rows[f"{ours.name} - {theirs.name}, below its sweep"]
    assert found[0].startswith("+25.0 (") and found[2] == "+0.0 (0.0 to 0.0)"
    # Of one seed nothing is said.
    first = [one for one in done if one.run.seed == SEEDS[0] or one.run.rate != BELOW["full"]]
    assert not any(
        "below" in name for name, *_ in paired_rows(ExperimentResults(LLM, first, STAGE_1), STEPS)
    )


def test_a_run_without_a_model_counts_as_nothing_and_is_not_repeated():
    method = BY_KEY["full"]
    done = [result(ExperimentRun("full", rate, 0, STEPS), 10, 10) for rate in method.rates[:2]]
    done.append(
        RunResult(ExperimentRun("full", method.rates[2], 0, STEPS), {"failed": "the loss is nan"})
    )
    results = ExperimentResults(LLM, done, STAGE_1)
    assert results.selection_score(done[2]) == 0.0
    assert results.best(method, STEPS).run.rate in method.rates[:2]
    assert done[2].run not in set(pending_runs(results, STEPS, (method,)))
    assert summarize(results, [done[2]]) is None
    of = summarize(results, done)
    assert of.failed == 1 and of.seeds == 3
    assert of.pictures.estimate.value == pytest.approx(2 / 3 * 80.0)
    assert of.kinds["pictures"] == {"a": pytest.approx(2 / 3 * 80.0)}
    assert of.text.seeds == (50.0, 50.0, 0.0)
    assert of.drift_mixed == 0.5


def test_text_is_counted_in_what_the_llm_answered():
    runs = [
        result(ExperimentRun("full", 1e-4, seed, STEPS), 0, right)
        for seed, right in enumerate((20, 10))
    ]
    of = summarize(ExperimentResults(LLM, runs, STAGE_1), runs)
    assert of.text.estimate.value == pytest.approx(75.0)
    assert of.text.seeds == (100.0, 50.0)
    assert of.text.estimate.low < 75.0 < of.text.estimate.high
    assert of.mixed.estimate.value == pytest.approx(50.0)
    assert of.pictures.estimate.value == pytest.approx(80.0)
    assert of.drift_mixed == 0.5


def test_new_right_answers_are_none_that_were_kept():
    run = result(ExperimentRun("full", 1e-4, 0, STEPS), 0, 20)
    # As many right answers as the LLM's twenty, but only five of them to the same questions.
    run.record["scores"]["test"]["text"] = {"a": [0.0] * 15 + [1.0] * 20 + [0.0] * 5}
    of = summarize(ExperimentResults(LLM, [run], STAGE_1), [run])
    assert of.text.estimate.value == pytest.approx(100.0)
    assert of.text.same == pytest.approx(25.0)
    assert of.pictures.same is None


def test_a_guess_is_the_commonest_answer_of_training(tmp_path):
    def write(name, *pairs):
        lines = [
            {
                "messages": [
                    {"role": "user", "content": asked},
                    {"role": "assistant", "content": said},
                ]
            }
            for asked, said in pairs
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))

    write("align", ("what", "cat"), ("what", "dog"), ("how many", "two"))
    write("instruct", ("what", "dog"), ("how many", "two"))
    write("pictures_test", ("what", "dog"), ("what", "cat"), ("how many", "two"), ("where", "here"))
    assert guess(tmp_path) == {"all": [1, 0, 1, 0]}


def test_results_are_read_as_they_were_added(tmp_path):
    (tmp_path / "llm.json").write_text(json.dumps(LLM))
    (tmp_path / "stage1.json").write_text(json.dumps(STAGE_1))
    runs = [result(ExperimentRun("full", 1e-4, seed, STEPS), 3, 4) for seed in SEEDS]
    for one in runs:
        add_result(tmp_path, one)
    read = read_results(tmp_path)
    assert [one.run for one in read.results] == [one.run for one in runs]
    assert [read.kept(one, "text") for one in read.results] == [20.0] * 3


def test_the_page_says_what_is_there_and_what_is_missing(tmp_path):
    size = ExperimentSize(steps=STEPS)
    method = BY_KEY["full"]
    runs = [result(ExperimentRun("full", rate, 0, STEPS), 5, 10) for rate in method.rates]
    write_page(tmp_path, ExperimentResults(LLM, runs[:2], STAGE_1), size)
    page = (tmp_path / "README.md").read_text()
    assert "front.png" not in page
    assert "sweeps.png" in page
    assert "Not done yet" in page
    write_page(tmp_path, ExperimentResults(LLM, runs, STAGE_1), size)
    page = (tmp_path / "README.md").read_text()
    assert "| full fine-tune | 2e-05 | 50.0 (" in page and "| 7 | 100 | 1 |" in page
    assert "yes, edge" in page and "| the commonest answer, no look |" in page
    assert (tmp_path / "front.png").stat().st_size > 10_000
    (tmp_path / "findings.md").write_text("Nothing is as expected.")
    runs.append(result(ExperimentRun("full", BELOW["full"], 0, STEPS), 20, 20))
    write_page(tmp_path, ExperimentResults(LLM, runs, STAGE_1), size)
    page = (tmp_path / "README.md").read_text()
    assert "Nothing is as expected." in page
    assert "| full fine-tune, below its sweep | 5e-06 | 100.0 (" in page
    assert "| full fine-tune | 2e-05 | 50.0 (" in page


def test_pairs_are_compared_question_by_question():
    # Four of ten questions against the same four and two more.
    fewer, more = [1.0] * 4 + [0.0] * 6, [1.0] * 6 + [0.0] * 4
    estimate = difference(more, fewer)
    assert estimate.value == pytest.approx(20.0)
    assert 0.0 <= estimate.low < 20.0 < estimate.high
    assert difference(more, more).high == 0.0


def test_a_page_without_gaps_misses_nothing(tmp_path):
    done: list[RunResult] = []
    while run := next(pending_runs(ExperimentResults(LLM, done, STAGE_1), STEPS), None):
        done.append(result(run, 5, 5))
    write_page(tmp_path, ExperimentResults(LLM, done, STAGE_1), ExperimentSize(steps=STEPS))
    page = (tmp_path / "README.md").read_text()
    for ours, theirs in PAIRS:
        assert f"| {BY_KEY[ours].name} - {BY_KEY[theirs].name} | " in page
    assert "Not done yet" not in page
    assert all(f"| {method.name} |" in page for method in METHODS)


def test_the_committed_page_is_what_the_code_writes(tmp_path, monkeypatch):
    """If it fails: `write_page` on a copy of the folder, as here, writes the page anew."""
    committed = Path(__file__).parents[3] / "eval" / "results" / "experiment"
    for name in ("runs.jsonl", "llm.json", "stage1.json", "findings.md"):
        shutil.copy(committed / name, tmp_path)
    page = (committed / "README.md").read_text(encoding="utf-8")
    # The machine of the runs, and no plots.
    machine = re.search(r"one run a core of (.+?); ", page)[1]
    monkeypatch.setattr(experiment_page, "processor_name", lambda: machine)
    monkeypatch.setattr(experiment_page, "plot", lambda *_, **__: None)
    write_page(tmp_path, read_results(tmp_path), ExperimentSize())
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == page
