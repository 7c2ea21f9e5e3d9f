"""`wings shift`: what it writes, and how it refuses."""

import json

import pytest
from PIL import Image

from wings.cli import main
from wings.examples.conversations import read_lines


def test_a_wings_checkpoint(checkpoint, data, tmp_path, capsys):
    items, out = data / "pictures_held_out.jsonl", tmp_path / "out"
    command = ["shift", str(checkpoint), "--output", str(out), "--items"]
    assert main([*command, str(items)]) == 0
    found = json.loads((out / "shift.json").read_text(encoding="utf-8"))
    # Again, as LLaVA's list in another folder: what the command wrote, it may replace.
    (tmp_path / "llava.json").write_text(json.dumps([*map(llava, read_lines(items))]))
    assert main([*command, str(tmp_path / "llava.json"), "--images", str(data)]) == 0
    said = capsys.readouterr().out
    assert "plus learners" in said
    again = json.loads((out / "shift.json").read_text(encoding="utf-8"))
    assert again["branches"] == found["branches"]
    assert found["options"]["sink"] == "apart"
    assert len(found["branches"]["main"]["samples"]) == len(items.read_text().splitlines())
    for branch in found["branches"].values():
        assert 0 <= branch["score"] <= 2
    with Image.open(out / "shift.png") as image:
        assert image.width > 1000


def llava(record):
    """The record in LLaVA's form."""
    turns, images = [], []
    for message in record["messages"]:
        content = message["content"]
        parts = [{"text": content}] if isinstance(content, str) else content
        images += [part["image"] for part in parts if "image" in part]
        words = "".join(part.get("text", "<image>") for part in parts)
        turns.append({"from": message["role"], "value": words})
    return {"conversations": turns, "image": images}


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
