"""docs/own-data.md from beginning to end: its recipes, records and commands, on the tiny parts.

Only what the page itself allows is changed: `--tiny`, and the overrides that go with it.
"""

import io
import json
import os
import re
import shlex
import signal
from pathlib import Path

import pytest
from own_data import BLOCKS, PAGE, commands_of, write_data

from wings.cli import main
from wings.train import run
from wings.train.recipe import Recipe
from wings.train.recipe_values import override
from wings.train.signals import NOT_FINISHED


def commands():
    """The commands of the page in their order, as lists of words."""
    for language, block in BLOCKS:
        if language == "bash":
            yield from commands_of(block)


def changes():
    """What the page tells to add for a trial with the tiny parts."""
    (words,) = re.findall(r"Then add\s+`([^`]+)`\s+to each command that names a recipe", PAGE)
    return shlex.split(words)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    for language, block in BLOCKS:
        if language == "yaml" and (name := re.match(r"# (\w+\.yaml)\n", block)):
            Path(name[1]).write_text(block)
    write_data()
    return project


def terminated_at(step, monkeypatch):
    """Lets the next run get a SIGTERM after a step, as from a cluster."""
    original = run.WingsTrainer.training_step

    def training_step(self, *args, **kwargs):
        if self.state.global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(run.WingsTrainer, "training_step", training_step)


def test_the_page_runs_from_beginning_to_end(folder, monkeypatch, capsys):
    done, said = [], {}
    monkeypatch.setattr("sys.stdin", io.StringIO("What is this?\n/quit\n"))
    for program, *words in commands():
        if program == "python3":
            assert words[:3] == ["-m", "pip", "install"]
            continue
        name = " ".join(words[: 2 if words[0] == "data" else 1])
        recipe = next((word for word in words if word.endswith(".yaml")), None)
        words += ["--tiny"] if name == "parts" else changes() if recipe else []
        with monkeypatch.context() as patch:
            is_stopped = (
                name == "train" and recipe == "instruct.yaml" and (name, recipe) not in done
            )
            if is_stopped:
                terminated_at(1, patch)
            code = main(words)
        out = capsys.readouterr()
        assert code == (NOT_FINISHED if is_stopped else 0), (words, out.err)
        done.append((name, recipe))
        said[name] = said.get(name, "") + out.out
    assert [name for name, _ in done] == [
        "parts", "data check", "plan", "train", "data check", "train", "train", "eval", "chat",
    ]  # fmt: skip
    assert said["chat"].count("What is this?") == 1
    result = json.loads(Path("runs/instruct/result.json").read_text())
    assert result["steps"] == 4 and "eval/text_after_image/loss" in result["evaluations"][-1]
    report = json.loads(Path("report/report.json").read_text())
    assert report, "the report is empty"
    for stage_1_or_2 in ("all 12 records can be used", "all 24 records can be used"):
        assert stage_1_or_2 in said["data check"]
    assert "resuming from step 2 of 4" in said["train"]
    assert "Text alone: kept exactly." in said["eval"]
    # The whole folder may be moved, and its recipes named from elsewhere: the run is still its own.
    weights = Path("runs/instruct/model.safetensors").stat()
    monkeypatch.chdir(folder.parent)
    folder.rename("moved")
    assert main(["train", "moved/instruct.yaml", *changes()]) == 0
    assert Path("moved/runs/instruct/model.safetensors").stat() == weights
    assert main(["train", "moved/instruct.yaml", *changes(), "seed=1"]) == 2
    assert "seed" in capsys.readouterr().err


def test_the_keys_against_forgetting_fit_the_recipe(folder):
    (more,) = [block for name, block in BLOCKS if name == "yaml" and "load_best" in block]
    Path("instruct.yaml").write_text(Path("instruct.yaml").read_text() + more)
    recipe = Recipe.from_yaml("instruct.yaml")
    assert recipe.evaluate.load_best and recipe.evaluate.stop.rise == 0.3


def test_the_slow_keys_are_keys():
    changes = re.findall(r"`([a-z_.]+=[^` ]+)`", PAGE)
    assert len(changes) >= 4
    for change in changes:
        values = {"stage": "align", "output": "x", "data": [{"path": "y"}]}
        values["model"] = {"vision": {"model_name": "m"}, "text": "t"}
        override(values, change)
        Recipe.from_dict(values)
