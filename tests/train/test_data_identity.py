"""Data that changed between two starts of a run: named, and only used when asked for."""

import json
import os
import shutil
from pathlib import Path

import pytest
from faults import killed_at
from PIL import Image

from wings.errors import WingsError
from wings.train.data import identity
from wings.train.recipe import DataSource, Evaluate, HeldOutSource, TextTurns
from wings.train.run import train


@pytest.fixture
def folder(data, checkpoint, tmp_path):
    """Data and a start of this test's own."""
    shutil.copytree(data, tmp_path / "data")
    shutil.copytree(checkpoint, tmp_path / "start")
    lines = (tmp_path / "data" / "text.jsonl").read_text()
    for name in ("turns.jsonl", "held.jsonl", "part-0.jsonl", "part-1.jsonl"):
        (tmp_path / "data" / name).write_text(lines)
    return tmp_path / "data"


@pytest.fixture
def broken(folder, make_recipe):
    """A function of changes: the recipe of a run that was killed after its checkpoint of step 2."""

    def make(**changes):
        held_out = HeldOutSource(str(folder / "held.jsonl"), name="held")
        settings = {
            "data": [
                DataSource(str(folder / "pictures.json"), str(folder)),
                DataSource(str(folder / "part-*.jsonl")),
            ],
            "text_turns": TextTurns(str(folder / "turns.jsonl"), 0.5),
            "evaluate": Evaluate([held_out], text_after_image=0, answers=0),
            "start": str(folder.parent / "start"),
            "save_every": 2,
        }
        recipe = make_recipe("align", **{**settings, **changes})
        with killed_at(3):
            train(recipe)
        return recipe

    return make


def edit(name):
    def change(folder):
        text = (folder / name).read_text()
        assert "!" in text
        # The same length.
        (folder / name).write_text(text.replace("!", "?", 1))

    return change


def append(name):
    def change(folder):
        with (folder / name).open("a") as file:
            file.write("\n" + (folder / name).read_text().splitlines()[0])

    return change


def repaint(folder):
    Image.new("RGB", (28, 28), (1, 2, 3)).save(folder / "0-0.png")


CHANGES = {
    "a record": (edit("pictures.json"), "data.0: the content of .*pictures.json changed"),
    "a picture": (repaint, "data.0: records or their images changed"),
    "a lost picture": (lambda f: (f / "0-9.png").unlink(), "data.0: records or their images"),
    "a longer file": (append("part-0.jsonl"), "data.1: .*part-0.jsonl has .* bytes instead of"),
    "a new file": (
        lambda f: shutil.copy(f / "part-0.jsonl", f / "part-2.jsonl"),
        "data.1: .*part-2.jsonl is new",
    ),
    "a file less": (lambda f: (f / "part-1.jsonl").unlink(), "data.1: .*part-1.jsonl is missing"),
    "text turns": (edit("turns.jsonl"), "text_turns: the content of .*turns.jsonl changed"),
    "held-out data": (edit("held.jsonl"), "evaluate.data.0: the content of .*held.jsonl changed"),
    "the start": (
        lambda f: (f.parent / "start" / "tokenizer_config.json").write_text(
            (f.parent / "start" / "tokenizer_config.json").read_text() + " "
        ),
        "start: .*tokenizer_config.json has .* bytes instead of",
    ),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_changed_data_are_named_and_used_only_when_asked_for(broken, folder, kind, capsys):
    change, said = CHANGES[kind]
    recipe = broken()
    change(folder)
    with pytest.raises(WingsError, match=rf"^output: the data changed since .*\({said}.*\); rest"):
        train(recipe)
    recipe.allow_changed_data = True
    if kind == "a lost picture":
        # Whether a step needs it is drawn.
        return
    assert train(recipe).steps == 4
    assert "The data changed since the run began: " in capsys.readouterr().err


def test_data_may_change_before_the_first_checkpoint(broken, folder):
    recipe = broken(save_every=None)
    edit("pictures.json")(folder)
    assert train(recipe).steps == 4


@pytest.mark.parametrize("is_sampled", [False, True])
def test_a_new_time_alone_is_no_change(broken, folder, monkeypatch, capsys, is_sampled):
    """Of a large file only a sample was read, so its new time is named."""
    if is_sampled:
        monkeypatch.setattr(identity, "SAMPLE", 100)
        monkeypatch.setattr(identity, "BLOCK", 10)
    recipe = broken()
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    capsys.readouterr()
    assert train(recipe).steps == 4
    named = f"{folder / 'pictures.json'} has a new time since the run began"
    assert (named in capsys.readouterr().err) == is_sampled


@pytest.mark.parametrize("place", [0, 1000, 99_999])
def test_a_sample_of_a_large_file_sees_its_ends_and_most_long_edits(tmp_path, monkeypatch, place):
    monkeypatch.setattr(identity, "SAMPLE", 50_000)
    monkeypatch.setattr(identity, "BLOCK", 500)
    file = tmp_path / "a"
    file.write_bytes(bytes(100_000))
    before = identity._digest_of_file(file)
    content = bytearray(100_000)
    content[place : place + 1200] = b"x" * len(content[place : place + 1200])
    file.write_bytes(content)
    assert identity._digest_of_file(file) != before


def test_many_files_are_not_all_read(tmp_path, monkeypatch):
    for n in range(200):
        (tmp_path / f"{n:03}.jsonl").write_text("{}")
    read = []
    digest = identity._digest_of_file
    monkeypatch.setattr(identity, "_digest_of_file", lambda path: read.append(path) or digest(path))
    found = identity._files(sorted(tmp_path.iterdir()))
    assert len(found) == 200 and len(read) == identity.FILES
    assert {read[0].name, read[-1].name} == {"000.jsonl", "199.jsonl"}


def test_other_data_than_the_recipes_have_no_identity(make_recipe):
    recipe = make_recipe("align", start=None)
    assert identity.identities(recipe, None) == {}


def test_the_record_is_json_in_the_inner_folder(broken):
    recipe = broken()
    saved = json.loads(Path(recipe.output, ".wings", "data.json").read_text())
    assert set(saved) == {"data.0", "data.1", "text_turns", "evaluate.data.0", "start"}
