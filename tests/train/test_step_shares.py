"""Shares of a training step: each moment belongs to one part, and nothing stays timed."""

import json
import time
from pathlib import Path

import pytest

from wings.train import step_shares
from wings.train.step_shares import (
    BACKWARD,
    FORWARD,
    JOINING,
    OPTIMISER,
    READING,
    REST,
    TEXT,
    Clock,
    main,
    measure_shares,
    table,
)

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "train/results/shares.json"


def test_the_time_of_a_part_within_another_is_its_own(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = Clock(since=0.0)

    def work(seconds, then=None):
        now[0] += seconds
        return then() if then else None

    inner = clock.timed("inner", lambda: work(2.0))
    outer = clock.timed("outer", lambda: work(3.0, inner) or work(1.0))
    work(0.5)
    outer()
    with pytest.raises(ZeroDivisionError):
        clock.timed("outer", lambda: work(1.0) or 1 / 0)()
    work(0.25)
    clock.turn()
    assert clock.seconds == {REST: 0.75, "outer": 5.0, "inner": 2.0} and not clock.open
    clock.restart()
    assert not clock.seconds


def test_all_parts_of_a_run_are_there_and_nothing_stays(make_recipe, tmp_path):
    before = {(owner, name): getattr(owner, name) for _, owner, name in step_shares.PLACES}
    began = time.perf_counter()
    # The instruct stage trains the small LLM, whose tower is timed by its class.
    seconds = measure_shares(make_recipe("instruct", steps=5, workers=0), 3)
    passed = time.perf_counter() - began
    wanted = {READING, TEXT, JOINING, FORWARD, BACKWARD, OPTIMISER, REST, "encoder of image"}
    assert seconds.keys() == wanted and min(seconds.values()) > 0
    assert 3 * sum(seconds.values()) < passed
    assert before == {(owner, name): getattr(owner, name) for _, owner, name in step_shares.PLACES}


def test_the_command_writes_what_it_prints(make_recipe, tmp_path, capsys):
    recipe = make_recipe("align", steps=99)
    (tmp_path / "r.yaml").write_text(recipe.to_yaml())
    result, recipe_file = tmp_path / "shares.json", str(tmp_path / "r.yaml")
    arguments = [recipe_file, "batch_size=4", "--steps", "2", "--result", str(result)]
    assert main(arguments) == 0
    found = json.loads(result.read_text())
    assert table(found) in capsys.readouterr().out
    assert found["steps"] == 2 and found["changes"] == ["batch_size=4"]
    assert main([str(tmp_path / "r.yaml"), "--steps", "0"]) == 2
    assert "--steps is 0" in capsys.readouterr().err


def test_the_guide_shows_the_committed_figures():
    lines = (ROOT / "train/README.md").read_text().splitlines()
    rows = {line.split("|")[1].strip(): line for line in lines if line.count("|") == 4}
    found = json.loads(RESULT.read_text())
    assert [*found] == [cell.strip() for cell in rows["part of a step"].split("|")[2:4]]
    for part in found["stage 1"]["seconds"]:
        seconds = [one["seconds"] for one in found.values()]
        shares = [f"{one[part] / sum(one.values()):.1%}" for one in seconds]
        assert [cell.strip() for cell in rows[part].split("|")[2:4]] == shares
