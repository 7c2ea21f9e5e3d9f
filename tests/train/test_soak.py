"""The soak, short: two kills over one training. What the long one came to is kept in train."""

import importlib.util
import json
import sys
from pathlib import Path

from forked import Program

ROOT = Path(__file__).parents[2]


def test_a_run_that_is_killed_ends_in_the_weights_of_one_that_is_not(tmp_path, monkeypatch):
    place = importlib.util.spec_from_file_location("soak", ROOT / "tests" / "soak.py")
    soak = importlib.util.module_from_spec(place)
    place.loader.exec_module(soak)
    words = ["soak", "--kills", "2", "--steps", "14"]
    words += ["--output", str(tmp_path / "soak"), "--result", str(tmp_path / "soak.json")]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(soak, "start", Program)
    assert soak.main() == 0
    result = json.loads((tmp_path / "soak.json").read_text())
    assert result["weights_and_figures_equal"]
    assert [death["exit_code"] for death in result["kills"]] == [-9, -9]


def test_the_long_soak_that_is_kept_came_out_equal():
    result = json.loads((ROOT / "train" / "results" / "soak.json").read_text())
    assert result["weights_and_figures_equal"] and len(result["kills"]) == 30
    assert sum("damaged" in death for death in result["kills"]) >= 5
    assert {death["signal"] for death in result["kills"]} == {"SIGKILL", "SIGTERM"}
    assert len(set(result["sha256_of_the_weights"].values())) == 1
