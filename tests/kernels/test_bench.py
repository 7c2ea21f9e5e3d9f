"""The benchmark: its quick run, and what a run measures and skips."""

import io
import json
import math

import pytest
import torch
from forked import Program
from rich.console import Console

from wings.kernels.bench import models, operations, tables
from wings.kernels.bench.__main__ import ONLY, parts
from wings.kernels.bench.operations import CHOICES, RECOMPUTED, RECOMPUTED_MEMORY, measure_choices
from wings.kernels.bench.run import (
    AGAIN,
    BACKWARD,
    COMPILED,
    DECODING,
    FORWARD,
    LAUNCHES,
    MEMORY,
    OPERATIONS,
    OTHER,
    PLAIN,
    ROUTED,
    SDPA,
    STEP,
    TEXTBOOK,
    TRAFFIC,
    WINGS,
    Place,
    Row,
    Run,
)
from wings.kernels.bench.setting import GPU, QUICK, Shape, with_lengths

CPU_DEVICE = torch.device("cpu")


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    command = Program("-m", "wings.kernels.bench", "--quick", "--output", folder)
    printed, errors = command.communicate()
    assert command.returncode == 0, errors
    # The profiler prints no messages of its own.
    assert "profiler" not in errors.lower(), errors
    return folder, printed, json.loads((folder / "bench.json").read_text())


def test_quick_run_has_the_rows_it_promises(quick):
    _, _, record = quick
    found = {
        (row["what"], row["variant"], row["length"]): row
        for row in record["rows"]
        if row["skipped"] is None
    }
    for length in QUICK.lengths:
        assert {(what, WINGS, length) for what in (FORWARD, STEP, MEMORY)} <= {*found}
        for what in (name + suffix for name in OPERATIONS for suffix in ("", BACKWARD)):
            assert {(what, variant, length) for variant in (WINGS, TEXTBOOK, AGAIN)} <= {*found}
    for variant in (WINGS, AGAIN):
        assert (DECODING, variant, QUICK.contexts[0]) in found
        assert (COMPILED, variant, QUICK.contexts[0]) in found
    for what in (LAUNCHES, TRAFFIC):
        row = found[what, WINGS, QUICK.contexts[0]]
        assert row["ratio"] == row["value"] / row["base"] > 0
        assert float(row["value"]).is_integer() and (row["floor"] is None) == (what == LAUNCHES)
    for row in found.values():
        numbers = [row[name] for name in ("ratio", "low", "high", "value", "base")]
        assert all(math.isfinite(number) and number > 0 for number in numbers), row
        assert row["low"] <= row["ratio"] <= row["high"]


def test_quick_run_records_where_and_how_it_was_made(quick):
    folder, printed, record = quick
    for name in ("device", "python", "torch", "transformers", "threads", "date", "command"):
        assert record[name], name
    assert "--quick" in record["command"]
    assert record["checks"] and all(check["green"] for check in record["checks"])
    assert all(check["error"] <= check["budget"] for check in record["checks"])
    assert (folder / "curves.png").stat().st_size > 10_000
    page = (folder / "README.md").read_text()
    assert record["command"] in page and "curves.png" in page
    # Ratios first, then the medians of this machine.
    assert 0 < printed.index("in units of the bare LLM") < printed.index("Medians on this machine")


SHAPE = Shape(24, 4, 2, 40, layers=2, decoding_layers=2, vocabulary=11, rank=3, pixels=28)


def test_every_part_is_of_models_or_of_operations(run):
    for name, _ in parts(run):
        kinds = [only for only, words in ONLY.items() if any(word in name for word in words)]
        assert len(kinds) == 1, name


def test_lengths_replace_those_of_a_preset():
    preset = with_lengths(GPU, [4096, 512])
    assert preset.lengths == preset.main == (512, 4096) and preset.memory == GPU.memory


def test_a_skipped_row_is_a_dash():
    place = (STEP, "D 64", "float32", 1, 32)
    what, rest = place[0], place[1:]
    rows = [
        Row(what, WINGS, "bare LLM", *rest, ratio=1.25, value=2.5, base=2.0),
        Row(what, TEXTBOOK, "bare LLM", *rest, skipped="out of memory"),
        Row(ROUTED, TEXTBOOK, SDPA, *rest, ratio=3.0, value=3.0, base=1.0),
    ]
    whole, operations = tables.by_title(rows).values()
    header, (cells,) = tables.ratio_cells([*whole])
    assert dict(zip(header, cells, strict=True))[WINGS] == "1.25"
    assert TEXTBOOK not in header
    assert "-" in tables.ratio_cells([*whole, operations[0]])[1][0]


@pytest.fixture
def run():
    return Run(QUICK, CPU_DEVICE, None, Console(file=io.StringIO()))


def test_no_number_without_a_passed_check(run):
    place = Place(ROUTED + BACKWARD, SHAPE, 1, 24)
    calls = dict.fromkeys((SDPA, WINGS, TEXTBOOK), lambda: None)
    run.time(place, calls)
    run.check(ROUTED, WINGS, SHAPE, "output", error=0.1, budget=0.2)
    run.time(place, calls)
    run.check(ROUTED, WINGS, SHAPE, "gradient of q", error=math.nan, budget=0.2)
    run.time(place, calls)
    measured = [row.ratio is not None for row in run.rows if row.variant == WINGS]
    assert measured == [False, True, False]
    assert all(row.ratio is not None for row in run.rows if row.variant == TEXTBOOK)
    assert not run.is_green


def test_the_textbook_has_rounds_of_its_own(run):
    """It takes many times as long, and would leave few rounds to the others."""
    run.check("whole model", WINGS, SHAPE, "logits", 0.0, 1.0)
    called = []
    names = ("bare LLM", AGAIN, TEXTBOOK, WINGS)
    calls = {name: lambda name=name: called.append(name) for name in names}
    run.time(Place(FORWARD, SHAPE, 1, 24), calls)
    # Each was tried once beforehand.
    timed = called[len(names) :]
    first = timed.index(TEXTBOOK)
    assert WINGS in timed[:first] and "bare LLM" in timed[first - 1 :]
    assert not {WINGS, AGAIN} & set(timed[first:])
    assert {(row.variant, row.rounds) for row in run.rows} == {
        (name, QUICK.rounds) for name in names[1:]
    }


def test_kernels_pass_the_checks_of_operations_and_models(run, monkeypatch):
    """On a CPU in Triton's interpreter, as the benchmark runs them on a GPU."""
    for module in (models, operations):
        monkeypatch.setattr(module, "impls", lambda _: {WINGS: "triton", PLAIN: "torch"})
        # Short rows, as the interpreter is slow.
        monkeypatch.setattr(module, "AFTER", 5)
    operations.check_operations(run, QUICK.shapes[0])
    models.check_model(run, QUICK.shapes[0])
    assert run.is_green and {check["variant"] for check in run.checks} == {WINGS, PLAIN}


def test_each_choice_has_an_alternative_with_the_same_result(run):
    measure_choices(run, SHAPE, [300])
    assert run.is_green and {check["what"] for check in run.checks} < set(CHOICES)
    rows = {row.what: row for row in run.rows if row.variant == OTHER}
    timed = [name for name in CHOICES if name != RECOMPUTED_MEMORY]
    assert {*rows} == {*timed, *(name + BACKWARD for name in timed), RECOMPUTED_MEMORY}
    assert rows[RECOMPUTED_MEMORY].unit == "bytes" and rows[RECOMPUTED_MEMORY].ratio > 1


def test_an_alternative_with_another_result_is_not_timed(run, monkeypatch):
    monkeypatch.setattr(operations, "saving", lambda at: 1.01 * operations.recomputing(at))
    measure_choices(run, SHAPE, [300])
    assert [check["what"] for check in run.checks if not check["green"]] == [RECOMPUTED]
    assert {row.what for row in run.rows if row.ratio is None} == {
        RECOMPUTED,
        RECOMPUTED + BACKWARD,
    }


def test_nothing_is_counted_without_a_passed_check_or_without_room(run):
    def too_large():
        raise torch.OutOfMemoryError("no room")

    rows = torch.zeros(2, 3)
    place, bare = Place(DECODING, SHAPE, 1, 24), {"bare LLM": lambda: rows + rows}
    run.count(place, {**bare, WINGS: lambda: rows.exp().exp()}, 12)
    assert not run.rows, "no check was made"
    run.check("whole model", WINGS, SHAPE, "logits", 0.0, 1.0)
    run.count(place, {**bare, WINGS: too_large}, 12)
    run.count(place, {"bare LLM": too_large, WINGS: lambda: None}, 12)
    assert not run.rows
    run.count(place, {**bare, WINGS: lambda: rows.exp().exp()}, 12)
    found = {row.what: (row.value, row.base, row.floor) for row in run.rows}
    # The sum reads the same rows twice, and one operation reads 24 bytes and writes as many.
    assert found == {LAUNCHES: (2, 1, None), TRAFFIC: (96, 48, 60 / 48)}


def test_a_failed_part_is_recorded_and_the_run_goes_on(run):
    run.attempt("first", lambda: 1 / 0)
    run.attempt("second", lambda: run.check(ROUTED, WINGS, SHAPE, "output", 0.0, 1.0))
    assert len(run.failures) == 1 and "first" in run.failures[0] and run.checks
    assert not run.is_green


def test_out_of_memory_is_skipped_and_a_bug_raises(run):
    def too_large():
        raise torch.OutOfMemoryError("no room")

    place = Place(STEP, SHAPE, 1, 24)
    run.check("whole model", WINGS, SHAPE, "logits", 0.0, 1.0)
    run.time(place, {"bare LLM": lambda: None, WINGS: too_large, TEXTBOOK: lambda: None})
    (wings,) = [row for row in run.rows if row.variant == WINGS]
    assert wings.skipped == "out of memory" and wings.ratio is None
    with pytest.raises(ZeroDivisionError):
        run.time(place, {"bare LLM": lambda: None, WINGS: lambda: 1 / 0})
