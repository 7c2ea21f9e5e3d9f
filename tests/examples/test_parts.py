"""`wings parts`: folders that are whole or missing, and lines that a recipe takes as they are."""

import json

import pytest

from wings.cli import main
from wings.train.recipe import Recipe
from wings.train.recipe_yaml import read_yaml

BASE = "stage: align\noutput: run\ndata: [{path: x.jsonl}]\n"


@pytest.fixture
def made(tmp_path, monkeypatch, capsys):
    """A folder of tiny parts below the working folder, and what the command printed."""
    monkeypatch.chdir(tmp_path)
    assert main(["parts", "models/own", "--tiny"]) == 0
    return tmp_path / "models" / "own", capsys.readouterr().out


def test_the_lines_that_it_prints_are_those_of_a_recipe_next_to_it(made):
    folder, out = made
    written, lines = out.split("\n\n")
    assert written.splitlines()[:2] == ["models/own/llm: written", "models/own/tower: written"]
    (folder.parent / "align.yaml").write_text(BASE + lines)
    recipe = Recipe.from_yaml("models/align.yaml")
    assert read_yaml(lines, "lines")["model"]["text"] == "own/llm"
    assert recipe.model.text == "models/own/llm" and recipe.model.vision["pool"] == 2
    config = json.loads((folder / "llm" / "config.json").read_text())
    assert recipe.wings["learner_layers"] == [*range(0, config["num_hidden_layers"], 3)]


def test_parts_that_are_there_stay_and_half_ones_are_made_again(made, capsys):
    folder, _ = made
    (folder / "llm" / "mine.txt").write_text("x")
    for file in (folder / "tower").iterdir():
        file.unlink()
    (folder / "tower").rmdir()
    draft = folder / ".wings" / "drafts" / "tower"
    draft.mkdir(parents=True)
    (draft / "open_clip_config.json").write_text("{")
    assert main(["parts", "models/own", "--tiny"]) == 0
    assert "own/llm: already there\nmodels/own/tower: written\n" in capsys.readouterr().out
    assert (folder / "llm" / "mine.txt").is_file() and not draft.exists()
    assert (folder / "tower" / "open_clip_model.safetensors").stat().st_size > 1000


def test_a_folder_of_something_else_is_refused(made, capsys):
    folder, _ = made
    (folder.parent / "x").write_text("mine")
    assert main(["parts", "models", "--tiny"]) == 2
    assert "contains files without a mark" in capsys.readouterr().err
    assert main(["parts", "models/own"]) == 2
    error = capsys.readouterr().err
    assert "was written by wings parts --tiny; choose another folder" in error or "real" in error


def test_a_part_that_cannot_be_read_is_named(made, capsys):
    folder, _ = made
    (folder / "llm" / "config.json").write_text("{")
    assert main(["parts", "models/own", "--tiny"]) == 2
    assert "its parts cannot be read" in capsys.readouterr().err
