"""`wings shift`: what it writes, and how it refuses."""

import json

import pytest
from PIL import Image

from wings.cli import main


def test_a_wings_checkpoint(checkpoint, data, tmp_path, capsys):
    items, out = data / "pictures_held_out.jsonl", tmp_path / "out"
    assert main(["shift", str(checkpoint), "--items", str(items), "--output", str(out)]) == 0
    # Again: what the command wrote, it may replace.
    assert main(["shift", str(checkpoint), "--items", str(items), "--output", str(out)]) == 0
    said = capsys.readouterr().out
    assert "plus learners" in said
    found = json.loads((out / "shift.json").read_text(encoding="utf-8"))
    assert found["options"]["sink"] == "apart"
    assert len(found["branches"]["main"]["samples"]) == len(items.read_text().splitlines())
    for branch in found["branches"].values():
        assert 0 <= branch["score"] <= 2
    with Image.open(out / "shift.png") as image:
        assert image.width > 1000


@pytest.mark.parametrize("lacks", ["checkpoint", "pictures", "items"])
def test_what_is_not_there_is_said(lacks, checkpoint, data, tmp_path, capsys):
    items = data / {"pictures": "text_held_out.jsonl", "items": "none.jsonl"}.get(
        lacks, "pictures_held_out.jsonl"
    )
    model = tmp_path / "none" if lacks == "checkpoint" else checkpoint
    output = tmp_path / "result"
    assert main(["shift", str(model), "--items", str(items), "--output", str(output)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("wings shift: ") and said.count("\n") == 1
    assert {
        "checkpoint": "There is no folder",
        "pictures": "No item",
        "items": "no such data",
    }[lacks] in said
    assert not output.exists()
