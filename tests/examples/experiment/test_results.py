"""The experiment's runs, summaries and page: order of tasks, choice of rates, figures."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from experiment_runs import (
    LLM,
    SIZE,
    count,
    everything,
    finish,
    mean,
    result,
    rows_of,
    value_of,
)

from wings.errors import WingsError
from wings.examples.experiment import experiment_page, tables
from wings.examples.experiment.cells import BY_KEY, FIRST, LATER, PROJECTOR_RATES
from wings.examples.experiment.experiment_page import write_page
from wings.examples.experiment.experiment_run import cells_of
from wings.examples.experiment.recipes import Rates
from wings.examples.experiment.runs import (
    SEEDS,
    SWEEP_SEED,
    ExperimentRun,
    RunResult,
    Stage1,
    add_run,
    chosen_rates,
    pending_tasks,
    percent,
    read_runs,
    sweep_runs,
)
from wings.examples.experiment.summary import difference, estimate, summarize


def test_sweeps_come_first_and_then_every_cell_of_a_seed(tmp_path):
    best = Rates(PROJECTOR_RATES[1], BY_KEY["learner-both-open"].rates[0])
    order, _ = everything(tmp_path, share=lambda run: 0.99 if run.rates == best else 0.3)
    runs = [task for task in order if isinstance(task, ExperimentRun)]
    sweeps, rest = runs[:8], runs[8:]
    assert {run.part for run in sweeps} == {"sweep"} and {run.seed for run in sweeps} == {100}
    assert {(run.cell, run.steps) for run in sweeps} == {
        ("learner-both-open", (100, 50)), ("lora-both-open", (100, 50))
    }  # fmt: skip
    assert [(run.seed, run.cell) for run in rest] == [(s, c.key) for s in SEEDS for c in FIRST]
    assert {(run.rates, run.steps) for run in rest} == {(best, (200, 150))}
    # Stage 1 is run for every seed, once for all cells that start from it, and just before them.
    stages = [task for task in order if isinstance(task, Stage1)]
    assert len(set(stages)) == len(stages) == 8 + 3 * len(SEEDS)
    first = [task for task in order if task.seed == 0]
    assert isinstance(first[0], Stage1) and first[1].stage_1 == first[0]
    assert all(stage.is_done(tmp_path) for stage in stages)


def test_tasks_of_two_workers_share_no_stage(tmp_path):
    tasks = list(dict.fromkeys(pending_tasks([], tmp_path, FIRST, SEEDS, SIZE)))
    assert len(tasks) == 8 and all(isinstance(task, Stage1) for task in tasks)
    assert {task.seed for task in tasks} == {SWEEP_SEED}
    finish(tasks[1], tmp_path)
    assert next(iter(pending_tasks([], tmp_path, FIRST, SEEDS, SIZE))) == tasks[0]


def test_a_projector_alone_is_shared_by_all_rates_of_the_branch():
    run = ExperimentRun("run", "learner-instruct-open", Rates(5e-4, 2e-3), 1, (2, 2))
    other = replace(run, cell="lora-instruct-attended", rates=Rates(5e-4, 5e-4))
    assert run.stage_1 == other.stage_1 and run.name != other.name
    both = replace(run, cell="learner-both-open")
    assert both.stage_1 != replace(both, rates=Rates(5e-4, 5e-4)).stage_1


def test_a_later_cell_runs_its_own_sweep(tmp_path):
    order, _ = everything(tmp_path, cells=LATER[:1], seeds=(5,))
    runs = [task for task in order if isinstance(task, ExperimentRun)]
    assert [run.cell for run in runs] == [LATER[0].key] * 5
    assert runs[-1].seed == 5


def test_a_failed_run_is_not_chosen_and_counts_as_nothing(tmp_path):
    cell = BY_KEY["lora-both-open"]
    runs = sweep_runs(cell, SIZE)
    done = [RunResult(run, {"failed": "the loss is nan"}) for run in runs[:3]]
    assert chosen_rates(done, cell, SIZE) is None
    done.append(result(runs[3], 0.1))
    assert chosen_rates(done, cell, SIZE) == runs[3].rates
    pair = [replace(runs[3], part="run", seed=seed) for seed in (0, 1)]
    found = [result(pair[0]), RunResult(pair[1], {"failed": "the loss is nan"})]
    alone, both = summarize(found[:1], LLM), summarize(found, LLM)
    assert both.tests["pictures"].value == pytest.approx(alone.tests["pictures"].value / 2)
    assert both.kinds["mixed"]["sums"] == pytest.approx(alone.kinds["mixed"]["sums"] / 2)
    assert both.same.value == pytest.approx(alone.same.value / 2)
    assert both.seeds[1][:2] == (0.0, 0.0)
    assert summarize(found[1:], LLM) is None
    assert difference(found, found[1:], "pictures", LLM) is None


def test_intervals_cover_clusters_and_seeds():
    rng = np.random.default_rng(0)
    items = rng.integers(0, 2, (3, 400)).astype(float)
    ones = np.ones(400)
    plain = estimate(items, ones)
    assert plain.value == pytest.approx(items.mean())
    # Wider than over items alone: noise of an item in one seed counts in both directions.
    error = items.mean(0).std() / 20
    assert 4 * error < plain.high - plain.low < 8 * error
    # Ten items that share a drawing are one unit: the interval is as wide as that of a tenth.
    tenfold = estimate(
        np.repeat(items[:, :40], 10, axis=1).reshape(3, 40, 10).sum(2), 10 * ones[:40]
    )
    assert tenfold.high - tenfold.low > 2 * (plain.high - plain.low)
    # Seeds that differ widen it, and with one seed they cannot.
    apart = items * np.array([[0.2], [1.0], [1.8]])
    assert estimate(apart, ones).high - estimate(apart, ones).low > 3 * (plain.high - plain.low)
    assert estimate(items[:1], ones).low < items[0].mean() < estimate(items[:1], ones).high


def test_differences_are_paired_by_question_and_seed():
    run = ExperimentRun("run", "lora-both-open", Rates(1, 1), 0, (2, 2))
    ours = [result(replace(run, seed=seed)) for seed in SEEDS]
    same = difference(ours, ours[:2], "pictures", LLM)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    theirs = [result(replace(run, cell="lora-both-attended", seed=seed)) for seed in SEEDS]
    expected = np.mean([percent(a.record["scores"]["pictures"]) for a in ours]) - np.mean(
        [percent(b.record["scores"]["pictures"]) for b in theirs]
    )
    assert difference(ours, theirs, "pictures", LLM).value == pytest.approx(expected)


def test_lines_are_read_as_they_were_added(tmp_path):
    runs = [result(run) for run in sweep_runs(BY_KEY["learner-both-open"], SIZE)]
    for one in runs:
        add_run(tmp_path, one)
    assert read_runs(tmp_path) == runs


def test_an_unknown_cell_is_one_sentence():
    assert cells_of(["full", "lora-both-open"]) == [BY_KEY["full"], BY_KEY["lora-both-open"]]
    with pytest.raises(WingsError, match=r"no cell 'lora-both', did you mean|no cell 'lora-both'"):
        cells_of(["lora-both"])


def test_the_page_is_written_from_any_runs(tmp_path):
    (tmp_path / "llm.json").write_text(json.dumps(LLM))
    _, done = everything(tmp_path, cells=(*FIRST, LATER[0]))
    for number in (0, 1, 4, 9, 14, 20, len(done)):
        write_page(tmp_path, done[:number], SIZE)
        page = (tmp_path / "README.md").read_text()
        assert ("Not finished" in page) == (number < len(done) - 1)
    assert (tmp_path / "front.png").stat().st_size > 10_000
    assert "## Further cells" in page
    (tmp_path / "findings.md").write_text("Nothing is as expected.")
    write_page(tmp_path, done, SIZE)
    assert "Nothing is as expected." in (tmp_path / "README.md").read_text()


def test_rows_have_the_same_seeds(tmp_path):
    (tmp_path / "llm.json").write_text(json.dumps(LLM))
    _, done = everything(tmp_path)
    runs = [one for one in done if one.run.part == "run"]
    first = [one for one in done if one.run.part != "run" or one.seed == 0]
    more = next(one for one in runs if one.seed == 1)
    tables = []
    for results in (first, [*first, more]):
        write_page(tmp_path, results, SIZE)
        tables.append(rows_of((tmp_path / "README.md").read_text(), "cell | pictures | text after"))
        assert (
            f"{len(results) - len(done) + len(runs)} of {len(runs)} runs"
            in (tmp_path / "README.md").read_text()
        )
    assert tables[0] == tables[1]
    assert all(row[-1] == "1" for row in tables[0][1].values())


def recompute(page, results, llm, cells):
    """Compares the page's figures with plain sums over `runs.jsonl`; returns the rows compared."""
    header, table = rows_of(page, "cell | pictures | text after")
    compared = 0
    runs_of_cells = {
        cell.key: [r for r in results if r.run.part == "run" and r.run.cell == cell.key]
        for cell in cells
    }
    whole = set.intersection(*({r.seed for r in runs} for runs in runs_of_cells.values()))
    for cell in cells:
        runs = [r for r in runs_of_cells[cell.key] if not whole or r.seed in whole]
        if not runs:
            continue
        row = dict(zip(header[1:], table[cell.name], strict=True))
        records = [run.record for run in runs]
        pictures = mean(percent(r["scores"]["pictures"]) for r in records)
        assert value_of(row["pictures"]) == pytest.approx(pictures, abs=0.06)
        for name, test in (("text after", "mixed"), ("text", "text")):
            kept = mean(100 * count(r["scores"][test]) for r in records)
            assert value_of(row[name]) == pytest.approx(
                kept / count(llm["test"]["scores"][test]), abs=0.06
            )
        assert value_of(row["same"]) == pytest.approx(
            mean(percent(r["same"]) for r in records), abs=0.06
        )
        for name, key in (("KL alone", "alone"), ("KL after", "mixed")):
            kl = mean(sum(r["kl"][key]) / sum(r["kl"]["tokens"]) for r in records)
            assert value_of(row[name]) == pytest.approx(kl, abs=6e-4)
        branch = sum(n for group, n in records[0]["trained"].items() if group != "projector")
        assert row["trained"] == f"{branch / 1e6:.2f} M"
        stages = [[r["stage_1"], r["stage_2"]] for r in records]
        assert row["seconds"] == f"{mean(sum(s['cpu_seconds'] for s in two) for two in stages):.0f}"
        assert row["MiB"] == str(max(s["memory_mib"] for two in stages for s in two))
        assert row["seeds"] == str(len(runs))
        compared += 1
    return compared


def test_the_pages_figures_are_those_of_the_runs(tmp_path):
    (tmp_path / "llm.json").write_text(json.dumps(LLM))
    _, done = everything(tmp_path)
    for one in done:
        add_run(tmp_path, one)
    write_page(tmp_path, done, SIZE)
    page = (tmp_path / "README.md").read_text()
    assert recompute(page, read_runs(tmp_path), LLM, FIRST) == 8
    assert "floor" in page and f"{1.1 / 10:.3f}" in page


COMMITTED = Path(__file__).parents[3] / "eval" / "results" / "stages"


@pytest.mark.skipif(not (COMMITTED / "runs.jsonl").exists(), reason="no runs are committed yet")
def test_the_committed_page_is_what_the_code_writes(tmp_path, monkeypatch):
    """If it fails: `write_page` on a copy of the folder, as here, writes the page anew."""
    for name in ("runs.jsonl", "llm.json", "cost.json", "findings.md"):
        if (COMMITTED / name).exists():
            shutil.copy(COMMITTED / name, tmp_path)
    page = (COMMITTED / "README.md").read_text(encoding="utf-8")
    # The machine of the runs, and no plot.
    machine = re.search(r"one run a core of (.+?); ", page)[1]
    monkeypatch.setattr(tables, "processor_name", lambda: machine)
    monkeypatch.setattr(experiment_page, "plot", lambda *_: None)
    results = read_runs(tmp_path)
    write_page(tmp_path, results, SIZE)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == page
    llm = json.loads((tmp_path / "llm.json").read_text())
    assert recompute(page, results, llm, FIRST) > 0
    assert all(len(r.record["stage_2"]["commit"]) == 40 for r in results if not r.failed)


def test_the_cost_of_a_cell_is_that_of_a_measured_model_like_it():
    ratios = {"again": [1.0, 1.0, 1.0], "learner-both-attended": [1.06, 1.05, 1.07]}
    cost = {"ratios": {"1024": {**ratios, "lora-both-attended": [1.13, 1.12, 1.14]}}}
    found = {cell.key: tables.cost_of(cost, cell, 1024) for cell in FIRST}
    for key, ratio in found.items():
        branch, _, gate = key.split("-")
        assert (ratio is None) == (gate == "open"), key
        assert ratio is None or ratio[0] == {"learner": 1.06, "lora": 1.13}[branch]
    assert tables.cost_of(cost, FIRST[1], 2048) is None


@pytest.mark.skipif(not (COMMITTED / "cost.json").exists(), reason="no costs are committed yet")
def test_the_page_shows_the_committed_costs():
    ratios = json.loads((COMMITTED / "cost.json").read_text())["ratios"]["1024"]
    header, table = rows_of((COMMITTED / "README.md").read_text(), "cell | pictures | text after")
    for key in ("learner-both-attended", "lora-both-attended"):
        row = dict(zip(header[1:], table[BY_KEY[key].name], strict=True))
        assert row["cost"] == f"{ratios[key][0]:.2f}"
