"""The bench: its quick run, and what a run measures and what it leaves out."""

import io
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from wings.kernels.bench import choices, table
from wings.kernels.bench.choices import measure_choices
from wings.kernels.bench.clock import Clock, Timing, orders
from wings.kernels.bench.error import budget, relative_error
from wings.kernels.bench.preset import GPU, QUICK, Shape, with_lengths
from wings.kernels.bench.row import (
    AGAIN,
    BACKWARD,
    CHOICES,
    COMPILED,
    DECODING,
    FORWARD,
    IMAGES,
    MADE_AGAIN,
    MADE_AGAIN_MEMORY,
    MEMORY,
    OTHER,
    PRODUCTS,
    ROUTED,
    SDPA,
    STEP,
    TEXTBOOK,
    TEXTS,
    WINGS,
    Row,
)  # fmt: skip
from wings.kernels.bench.run import Place, Run

ROOT = Path(__file__).parents[2]
CPU_DEVICE = torch.device("cpu")


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    command = [sys.executable, "-m", "wings.kernels.bench", "--quick", "--output", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # What it measures with says nothing of its own beside the rows.
    assert "profiler" not in done.stderr.lower(), done.stderr
    return folder, done.stdout, json.loads((folder / "bench.json").read_text())


def test_quick_run_has_the_rows_it_promises(quick):
    _, _, record = quick
    found = {
        (row["what"], row["variant"], row["length"]): row
        for row in record["rows"]
        if row["skipped"] is None
    }
    operations = [f"{what}{way}" for what in (ROUTED, IMAGES, TEXTS) for way in ("", BACKWARD)]
    for what in (FORWARD, STEP, MEMORY, *operations):
        for length in QUICK.lengths:
            for variant in (WINGS, TEXTBOOK):
                assert (what, variant, length) in found
    for variant in (WINGS, TEXTBOOK, PRODUCTS, AGAIN):
        assert (DECODING, variant, QUICK.contexts[0]) in found
    for variant in (WINGS, AGAIN):
        assert (COMPILED, variant, QUICK.contexts[0]) in found
    for row in found.values():
        numbers = [row[name] for name in ("ratio", "low", "high", "value", "base")]
        assert all(math.isfinite(number) and number > 0 for number in numbers), row
        assert row["low"] <= row["ratio"] <= row["high"]


def test_quick_run_says_where_and_how_it_was_made(quick):
    folder, printed, record = quick
    for name in ("device", "python", "torch", "transformers", "threads", "date", "command"):
        assert record[name], name
    assert "--quick" in record["command"]
    assert record["checks"] and all(check["green"] for check in record["checks"])
    assert all(check["error"] <= check["budget"] for check in record["checks"])
    assert (folder / "curves.png").stat().st_size > 10_000
    page = (folder / "README.md").read_text()
    assert record["command"] in page and "curves.png" in page
    # Ratios first, what only this machine can say after them.
    assert 0 < printed.index("in units of the bare LLM") < printed.index("Medians on this machine")


SHAPE = Shape(24, 4, 2, 40, layers=2, decoding_layers=2, vocabulary=11, rank=3, pixels=28)


def test_a_ratio_compares_within_rounds():
    # The machine slows down threefold; the second call always takes twice as long.
    slow, fast = Timing([2.0, 6.0, 6.0]), Timing([1.0, 3.0, 3.0])
    assert slow.over(fast) == (2.0, 2.0, 2.0)
    assert slow.median == 6.0


def test_no_version_comes_always_early():
    names = ["a", "b", "c", "d"]
    found = list(itertools.islice(orders(names), 12))
    assert len({tuple(order) for order in found}) > 6
    for there, back in zip(found[::2], found[1::2], strict=True):
        assert sorted(there) == names
        assert {there.index(name) + back.index(name) for name in names} == {len(names) - 1}


def test_a_machine_that_slows_down_all_the_time_favours_none(monkeypatch):
    """Four calls that are the same, each of which takes a tenth of a second more than the last."""
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    calls = 0

    def call():
        nonlocal now, calls
        calls += 1
        now += 10 + calls / 10

    timings = Clock(CPU_DEVICE, rounds=8, seconds=1e6).whole(dict.fromkeys("abcd", call))
    ratios = [timings[name].over(timings["a"])[0] for name in "bcd"]
    assert ratios == pytest.approx([1, 1, 1], abs=2e-3)


def test_errors_of_nothing_are_no_pass():
    exact = torch.randn(50, dtype=torch.float64)
    plain = exact.float()
    assert relative_error(plain, exact) <= budget(plain, exact)
    assert not relative_error(plain * 1.001, exact) <= budget(plain, exact)
    broken = plain.clone()
    broken[3] = torch.nan
    assert not relative_error(broken, exact) <= budget(plain, exact)


def test_lengths_replace_those_of_a_preset():
    preset = with_lengths(GPU, [4096, 512])
    assert preset.lengths == preset.main == (512, 4096) and preset.memory == GPU.memory


def test_what_was_skipped_shows_as_a_dash_and_no_number():
    place = (STEP, "D 64", "float32", 1, 32)
    what, rest = place[0], place[1:]
    rows = [
        Row(what, WINGS, "bare LLM", *rest, ratio=1.25, value=2.5, base=2.0),
        Row(what, TEXTBOOK, "bare LLM", *rest, skipped="out of memory"),
        Row(ROUTED, TEXTBOOK, SDPA, *rest, ratio=3.0, value=3.0, base=1.0),
    ]
    whole, operations = table.split(rows).values()
    header, (cells,) = table.ratio_cells([*whole])
    assert dict(zip(header, cells, strict=True))[WINGS] == "1.25"
    assert TEXTBOOK not in header
    assert "-" in table.ratio_cells([*whole, operations[0]])[1][0]


@pytest.fixture
def run():
    return Run(QUICK, CPU_DEVICE, None, Console(file=io.StringIO()))


def test_no_number_without_a_green_check(run):
    place = Place(ROUTED + BACKWARD, SHAPE, 1, 24)
    calls = dict.fromkeys((SDPA, WINGS, TEXTBOOK), lambda: None)
    run.time(place, calls)
    run.checked(ROUTED, WINGS, SHAPE, "output", error=0.1, budget=0.2)
    run.time(place, calls)
    run.checked(ROUTED, WINGS, SHAPE, "gradient of q", error=math.nan, budget=0.2)
    run.time(place, calls)
    measured = [row.ratio is not None for row in run.rows if row.variant == WINGS]
    assert measured == [False, True, False]
    assert all(row.ratio is not None for row in run.rows if row.variant == TEXTBOOK)
    assert not run.is_green


def test_the_textbook_has_rounds_of_its_own(run):
    """It takes many times as long, and would leave few rounds to what is compared closely."""
    run.checked("whole model", WINGS, SHAPE, "logits", 0.0, 1.0)
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


def test_each_choice_stands_beside_another_way_to_the_same(run):
    measure_choices(run, SHAPE, [300])
    assert run.is_green and {check["what"] for check in run.checks} < set(CHOICES)
    rows = {row.what: row for row in run.rows if row.variant == OTHER}
    timed = [name for name in CHOICES if name != MADE_AGAIN_MEMORY]
    assert {*rows} == {*timed, *(name + BACKWARD for name in timed), MADE_AGAIN_MEMORY}
    assert rows[MADE_AGAIN_MEMORY].unit == "bytes" and rows[MADE_AGAIN_MEMORY].ratio > 1


def test_another_way_to_something_else_is_not_timed(run, monkeypatch):
    monkeypatch.setattr(choices, "keep", lambda at: 1.01 * choices.make_again(at))
    measure_choices(run, SHAPE, [300])
    assert [check["what"] for check in run.checks if not check["green"]] == [MADE_AGAIN]
    assert {row.what for row in run.rows if row.ratio is None} == {
        MADE_AGAIN,
        MADE_AGAIN + BACKWARD,
    }


def test_what_breaks_is_written_down_and_the_run_goes_on(run):
    run.attempt("first", lambda: 1 / 0)
    run.attempt("second", lambda: run.checked(ROUTED, WINGS, SHAPE, "output", 0.0, 1.0))
    assert len(run.failures) == 1 and "first" in run.failures[0] and run.checks
    assert not run.is_green


def test_out_of_memory_is_a_reason_and_a_bug_is_not(run):
    def too_large():
        raise torch.OutOfMemoryError("no room")

    place = Place(STEP, SHAPE, 1, 24)
    run.checked("whole model", WINGS, SHAPE, "logits", 0.0, 1.0)
    run.time(place, {"bare LLM": lambda: None, WINGS: too_large, TEXTBOOK: lambda: None})
    (wings,) = [row for row in run.rows if row.variant == WINGS]
    assert wings.skipped == "out of memory" and wings.ratio is None
    with pytest.raises(ZeroDivisionError):
        run.time(place, {"bare LLM": lambda: None, WINGS: lambda: 1 / 0})
