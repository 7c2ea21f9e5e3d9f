"""`wings compare`: several reports side by side, from what an evaluation writes."""

import json

import pytest
from PIL import Image

from wings.cli import main
from wings.cli.compare import compare
from wings.errors import WingsError
from wings.eval.attention.shift_plot import score_figure
from wings.eval.data import EvalData
from wings.eval.evaluation import evaluate
from wings.eval.items import Item


def question(text, answer, picture=None):
    parts = [{"type": "image", "image": picture}] if picture else []
    content = [*parts, {"type": "text", "text": text}] if parts else text
    return Item("k", ({"role": "user", "content": content},), answer)


@pytest.fixture
def report(chain, winged, make_runner, picture, tmp_path):
    """A function (name, what the model says, ...) -> the folder of its report."""

    def write(name, says, against="llm", data=None):
        if data is None:
            text = [question(letter, "a") for letter in "abcd"] + [question("e", "b")]
            seen = question("f", "b", picture).messages[0]
            turns = ({"role": "user", "content": "c d e f"}, {"role": "assistant", "content": "b"})
            more = ({"role": "assistant", "content": "b"}, {"role": "user", "content": "g h"})
            data = EvalData(text, (), [Item("mixed", (*turns, seen, *more), "a")])
        found = evaluate(chain(1, "a")[0], winged(2, says)[0], data, make_runner())
        folder = tmp_path / name
        folder.mkdir()
        # Every evaluation has its files in a folder of its own.
        files = {part: [f"{name}/{part}.jsonl"] for part in ("text", "conversations")}
        inputs = {"checkpoint": name, "against": against, "files": files}
        inputs["questions"] = data.digests()
        document = {"inputs": inputs, "measurements": found.to_dict()}
        (folder / "report.json").write_text(json.dumps(document), encoding="utf-8")
        return folder

    return write


def test_rows_are_what_the_reports_say(report, tmp_path):
    folders = [report("one", "a"), report("two", "b")]
    rows = compare(folders, tmp_path / "plot.png")
    assert [row.name for row in rows] == ["LLM", "one", "two"]
    assert [row.accuracies["text"].percent for row in rows] == [80.0, 80.0, 20.0]
    assert [row.accuracies["conversations"].total for row in rows] == [1, 1, 1]
    said = json.loads((folders[1] / "report.json").read_text(encoding="utf-8"))
    main_branch = said["measurements"]["attention"]["model"]["branches"]["main"]
    assert len(main_branch["before"]) == 1 and len(main_branch["before"][0]) == 2
    assert rows[2].shifts["attention"] == (main_branch["score"], tuple(main_branch["interval"]))
    with Image.open(tmp_path / "plot.png") as image:
        assert len(set(image.convert("L").tobytes())) > 20


def test_without_attention_there_is_a_table_and_no_plot(report, tmp_path, capsys):
    folder = report("one", "b", data=EvalData([question("a", "a")]))
    assert main(["compare", str(folder), "--output", str(tmp_path / "plot.png")]) == 0
    assert "nothing to draw" in capsys.readouterr().out
    assert not (tmp_path / "plot.png").exists()


def test_reports_with_other_parts_share_the_table_and_the_plot(report, tmp_path, capsys, picture):
    text = [question(letter, "a") for letter in "abcd"] + [question("e", "b")]
    seen = [question("f", "b", picture)]
    folders = [
        report("whole", "a"), report("text", "b", data=EvalData(text)),
        report("pictures", "b", data=EvalData(pictures=seen)),
    ]  # fmt: skip
    rows = compare(folders, tmp_path / "plot.png")
    assert [set(row.accuracies) for row in rows] == [
        {"text", "pictures", "conversations"}, {"text", "conversations"}, {"text"}, {"pictures"}
    ]  # fmt: skip
    assert [row.point() is not None for row in rows] == [True, True, False, False]
    assert rows[1].point().after == rows[1].accuracies["conversations"]
    said = " ".join(capsys.readouterr().out.split())
    assert "whole was not measured on: pictures." in said
    assert "text was not measured on: pictures, text after an image, attention shift." in said
    assert "pictures was not measured on: text, text after an image." in said
    figure = score_figure([row.point() for row in rows if row.point()])
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == ["text answered (%)", "text after an image answered (%)"]


def test_what_cannot_be_compared_is_a_sentence(report, tmp_path):
    one, other = report("one", "a"), report("other", "b", against="another")
    with pytest.raises(WingsError, match="have different LLMs"):
        compare([one, other], tmp_path / "plot.png")
    asked = report("asked", "b", data=EvalData([question("a", "b")]))
    with pytest.raises(WingsError, match=r"questions as --text .one/text\.jsonl and asked"):
        compare([one, asked], tmp_path / "plot.png")
    with pytest.raises(WingsError, match=r"holds no report\.json"):
        compare([one, tmp_path], tmp_path / "plot.png")
    (one / "report.json").write_text('{"inputs": {}}', encoding="utf-8")
    with pytest.raises(WingsError, match="is no report of wings eval"):
        compare([one], tmp_path / "plot.png")
