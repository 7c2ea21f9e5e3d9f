"""`wings iit`: what it writes, that `wings eval` takes it, and what it refuses."""

import json
import shlex
from collections import Counter

import pytest

from wings.cli import main
from wings.eval.iit import KINDS
from wings.eval.items import pictures_of, read_items
from wings.examples.conversations import read_lines, write_lines


@pytest.fixture
def build(data, llm, tmp_path):
    """A function of options: the exit code of `wings iit` on the quickstart's held-out items."""

    def run(*more, text="text_held_out.jsonl", pictures="pictures_held_out.jsonl"):
        files = [str(data / text), str(data / pictures)]
        return main(["iit", *files, "--llm", str(llm), *map(str, more)])

    return run


def test_what_is_built_is_what_eval_takes(build, checkpoint, llm, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    out = tmp_path / "out"
    assert build("--output", out, "--size", 3) == 0
    said = capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == [
        ".wings", "pictures.jsonl", "text.jsonl"
    ]  # fmt: skip
    for name, last in (("text", "T"), ("pictures", "V")):
        items = read_items(out / f"{name}.jsonl")
        kinds = [kind for kind in KINDS if kind.endswith(last)]
        assert Counter(item.kind for item in items) == dict.fromkeys(kinds, 3)
        assert all(bool(pictures_of(item)) == (last == "V") for item in items)
    rows = [line.split() for line in said.splitlines()]
    for kind in KINDS:
        name = "text" if kind.endswith("T") else "pictures"
        assert any(kind in row and "3" in row and f"{name}.jsonl" in row for row in rows), said
    for name in ("embedding", "turns before text", "turns before pictures"):
        assert name in said
    # What it says to do next is done, word for word.
    (command,) = (line for line in said.splitlines() if "wings eval" in line)
    words = shlex.split(command.replace("CHECKPOINT", str(checkpoint)))[1:]
    few = ["--output", str(tmp_path / "report"), "--max-new-tokens", "2"]
    assert words[:1] == ["eval"] and main([*words, *few]) == 0
    found = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    measured = found["measurements"]
    # Where a model looks is measured on pictures too: (T,V) has text before and after.
    assert list(measured) == ["text", "pictures", "attention"]
    counts = {
        kind: of["after"]["total"]
        for name in ("text", "pictures")
        for kind, of in measured[name]["kinds"].items()
    }
    assert counts == {"all": 9, **dict.fromkeys(KINDS, 3)}


def test_seed_and_size_are_the_builders(build, tmp_path):
    folders = [tmp_path / name for name in "abcd"]
    options = [("--seed", 1), ("--seed", 1), ("--seed", 2), ("--seed", 1, "--size", 2)]
    for folder, more in zip(folders, options, strict=True):
        assert build("--output", folder, "--uses", 8, *more) == 0
    a, b, c, d = (
        [(folder / name).read_bytes() for name in ("text.jsonl", "pictures.jsonl")]
        for folder in folders
    )
    assert a == b and a != c and a != d
    assert len(read_lines(folders[0] / "text.jsonl")) == 3 * 8
    assert len(read_lines(folders[3] / "text.jsonl")) == 3 * 2


def test_what_cannot_be_built_is_one_sentence(build, data, tmp_path, capsys):
    out, full, plain = tmp_path / "out", tmp_path / "full", tmp_path / "file"
    full.mkdir()
    (full / "pictures.jsonl").write_text("kept")
    plain.write_text("kept")
    few = tmp_path / "few.jsonl"
    write_lines(few, read_lines(data / "text_held_out.jsonl")[:2])
    for more, files, said in (
        ((), {"text": "none.jsonl"}, "no such data file"),
        ((), {"text": "pictures_held_out.jsonl"}, "Item 0 of text has a picture"),
        ((), {"pictures": "text_held_out.jsonl"}, "Item 0 of pictures has no picture"),
        (("--size", 9), {}, "size is 9, but text has 8 items"),
        ((), {"text": str(few)}, "raise uses"),
        (("--llm", tmp_path / "none"), {}, "none"),
        (("--output", full), {}, "(pictures.jsonl); nothing was changed"),
        (("--output", plain), {}, "is a file"),
    ):
        assert build("--output", out, *more, **files) == 2, said
        error = capsys.readouterr().err
        assert error.startswith("wings iit: ") and error.count("\n") == 1, error
        assert said in error, error
        assert not out.exists()
    assert (full / "pictures.jsonl").read_text() == plain.read_text() == "kept"
