"""The `wings` command: what it offers, and how it refuses."""

import subprocess
import sys

import pytest

from wings.cli import main
from wings.errors import WingsError
from wings.examples.quickstart.run import claim


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert all(command in said for command in ("quickstart", "chat", "emoji", "eval", "iit"))


def test_an_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        main(["quickstrat"])
    assert end.value.code == 2
    assert "quickstart" in capsys.readouterr().err


def test_a_folder_that_holds_something_is_refused_and_left_alone(tmp_path, capsys):
    kept = tmp_path / "results.json"
    kept.write_text("{}", encoding="utf-8")
    assert main(["quickstart", "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path) in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    with pytest.raises(WingsError, match=r"results\.json"):
        claim(kept)


def test_without_a_name_a_fresh_folder_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [claim(None).path.name for _ in range(3)]
    assert names == ["wings-quickstart", "wings-quickstart-2", "wings-quickstart-3"]


def test_commands_import_what_they_need_only_when_they_run():
    code = "import sys, wings.cli; print('wings.train.run' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
