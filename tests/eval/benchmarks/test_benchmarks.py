"""Files of picture benchmarks, written by hand in each one's own fields."""

import base64
import csv
import io
import json
from dataclasses import replace

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from wings.errors import WingsError
from wings.eval.benchmarks.__main__ import main
from wings.eval.benchmarks.gqa import read_gqa
from wings.eval.benchmarks.mmbench import read_mmbench
from wings.eval.benchmarks.mmmu import read_mmmu
from wings.eval.benchmarks.scienceqa import read_scienceqa
from wings.eval.benchmarks.vqav2 import read_vqav2
from wings.eval.compare.comparison import ALL, Comparison
from wings.eval.items import Item, read_items
from wings.eval.scoring.score import score
from wings.processing.image_reader import load_image


def picture(colour="red"):
    held = io.BytesIO()
    Image.new("RGB", (5, 4), colour).save(held, "PNG")
    return held.getvalue()


def dump(path, value):
    path.write_text(json.dumps(value))
    return path


def pictures(item):
    parts = [part for m in item.messages for part in m["content"] if isinstance(part, dict)]
    return [load_image(part["image"]) for part in parts if part["type"] == "image"]


def text(item):
    content = item.messages[0]["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


@pytest.fixture
def vqa(tmp_path):
    (tmp_path / "COCO_val2014_000000000042.jpg").write_bytes(picture())
    question = {"image_id": 42, "question": "How many cats?", "question_id": 420}
    answers = [
        {"answer": a, "answer_confidence": "yes", "answer_id": n + 1}
        for n, a in enumerate(["2"] * 7 + ["3"] * 3)
    ]
    annotation = {
        "question_id": 420, "image_id": 42, "question_type": "how many", "answer_type": "number",
        "multiple_choice_answer": "2", "answers": answers,
    }  # fmt: skip
    return {"questions": [question]}, {"annotations": [annotation]}, tmp_path


def test_vqav2(vqa):
    questions, annotations, folder = vqa
    files = dump(folder / "q.json", questions), dump(folder / "a.json", annotations)
    (item,) = read_vqav2(*files, folder)
    (folder / "2017").mkdir()
    (folder / "2017" / "000000000042.jpg").write_bytes(picture())
    assert len(pictures(read_vqav2(*files, folder / "2017")[0])) == 1
    assert (item.kind, item.answer, len(item.references)) == ("number", "2", 10)
    assert text(item).startswith("How many cats?\n") and len(pictures(item)) == 1
    assert [score(item, said) for said in ("Two.", "three", "4")] == pytest.approx([1, 0.9, 0])


def test_vqav2_with_something_missing(vqa):
    questions, annotations, folder = vqa
    good = dump(folder / "q.json", questions), dump(folder / "a.json", annotations)
    with pytest.raises(WingsError, match="has no question_id 420"):
        read_vqav2(good[0], dump(folder / "b.json", {"annotations": []}), folder)
    with pytest.raises(WingsError, match=r"question 0: there is no picture .*000000000042"):
        read_vqav2(*good, folder / "elsewhere")
    del annotations["annotations"][0]["answer_type"]
    with pytest.raises(WingsError, match="question_id 420 has no field 'answer_type'"):
        read_vqav2(good[0], dump(folder / "b.json", annotations), folder)
    with pytest.raises(WingsError, match="no field 'questions'"):
        read_vqav2(good[1], good[1], folder)


def test_gqa(tmp_path):
    (tmp_path / "n1.jpg").write_bytes(picture())
    record = {
        "question": "Is it red?", "imageId": "n1", "answer": "yes", "fullAnswer": "Yes, it is.",
        "isBalanced": True, "types": {"structural": "verify", "semantic": "attr"},
    }  # fmt: skip
    (item,) = read_gqa(dump(tmp_path / "q.json", {"07": record}), tmp_path)
    assert item.kind == "verify" and len(pictures(item)) == 1
    assert [score(item, said) for said in ("Yes.", "yes, it is", "no")] == [1, 0, 0]
    with pytest.raises(WingsError, match="question 07: imageId is 1; it must be of type str"):
        read_gqa(dump(tmp_path / "q.json", {"07": {**record, "imageId": 1}}), tmp_path)
    with pytest.raises(WingsError, match=r"q\.json: .*must be of type dict"):
        read_gqa(dump(tmp_path / "q.json", [record]), tmp_path)


def test_scienceqa(tmp_path):
    (tmp_path / "test" / "7").mkdir(parents=True)
    (tmp_path / "test" / "7" / "image.png").write_bytes(picture())
    record = {
        "question": "Which is a solid?", "choices": ["ice", "steam"], "answer": 0, "hint": "Look.",
        "image": "image.png", "task": "closed choice", "grade": "grade3", "lecture": "",
        "subject": "natural science", "topic": "t", "category": "c", "skill": "s", "solution": "",
        "split": "test",
    }  # fmt: skip
    plain = {**record, "image": None, "hint": "", "answer": 1}
    other = {**record, "split": "train"}
    path = dump(tmp_path / "problems.json", {"7": record, "8": plain, "9": other})
    seen, alone = read_scienceqa(path, tmp_path)
    assert (seen.kind, alone.kind) == ("natural science, picture", "natural science, text")
    assert text(seen).startswith("Look.\nWhich is a solid?\nA. ice\nB. steam\n")
    assert [score(seen, "A"), score(alone, "A"), score(alone, "It is steam")] == [1, 0, 1]
    with pytest.raises(WingsError, match="problem 7: answer is 2, but there are 2 choices"):
        read_scienceqa(dump(path, {"7": {**record, "answer": 2}}), tmp_path)
    with pytest.raises(WingsError, match="no problem of split 'val'"):
        read_scienceqa(dump(path, {"7": record}), tmp_path, "val")
    with pytest.raises(WingsError, match="choices is"):
        read_scienceqa(dump(path, {"7": {**record, "choices": []}}), tmp_path)


def bench(path, *rows):
    names = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image"]
    with path.open("w", newline="") as lines:
        table = csv.DictWriter(lines, names, delimiter="\t", restval="")
        table.writeheader()
        table.writerows(rows)
    return path


@pytest.fixture
def rows():
    """Two questions as MMBench's table has them: the later passes are rows of their own."""
    held = base64.b64encode(picture() + b"\0" * 200_000).decode()  # longer than csv's own limit
    two = {
        "index": "7", "question": "What\nis it?", "hint": "nan", "A": "a cat", "B": "a dog",
        "answer": "B", "category": "finegrained", "image": "12",
    }  # fmt: skip
    three = {**two, "index": "12", "C": "a cow", "D": "nan", "hint": "Look.", "image": held}
    moved = {**two, "index": "1000007", "A": "a dog", "B": "a cat", "answer": "A"}
    again = {**three, "index": "2000012", "A": "a cow", "B": "a cat", "C": "a dog", "answer": "C"}
    return [two, three, moved, {**again, "image": "12"}]


def test_mmbench(tmp_path, rows):
    path = tmp_path / "bench.tsv"
    items = read_mmbench(bench(path, *rows))
    assert [item.circle for item in items] == ["bench 7"] * 2 + ["bench 12"] * 3
    assert [item.choices for item in items] == [
        ("a cat", "a dog"), ("a dog", "a cat"),
        ("a cat", "a dog", "a cow"), ("a dog", "a cow", "a cat"), ("a cow", "a cat", "a dog"),
    ]  # fmt: skip
    # The letter of the right choice moves, what it says does not.
    right = [[letter for letter in "ABC" if score(item, letter)] for item in items]
    assert right == [["B"], ["A"], ["B"], ["A"], ["C"]]
    assert all(score(item, "A dog.") == 1 for item in items)
    assert text(items[0]).startswith("What\nis it?\nA. a cat\nB. a dog\nAnswer")
    assert text(items[4]).startswith("Look.\nWhat\nis it?\nA. a cow\nB. a cat\nC. a dog\nAnswer")
    assert len({pictures(item)[0].tobytes() for item in items}) == 1
    assert csv.field_size_limit() < 2**20
    # The passes that a table has are those that are made for one without them.
    assert read_mmbench(bench(path, *rows[:2])) == items
    plain = read_mmbench(bench(path, *rows), "plain")
    assert [replace(item, circle="") for item in (items[0], items[2])] == plain


def test_mmbench_with_something_wrong(tmp_path, rows):
    path, row = tmp_path / "bench.tsv", rows[1]
    for change, said in (
        ({"answer": "D"}, "row 1: answer is 'D'"),
        ({"image": "7777"}, "base64, or the index of a row"),
        ({"image": "?" * 80}, "not base64"),
        ({"index": "1000012"}, "pass of question 12, which has no row"),
        ({"index": "x"}, "index is 'x'; it must be a whole number"),
    ):
        with pytest.raises(WingsError, match=said):
            read_mmbench(bench(path, {**row, **change}))
    with pytest.raises(WingsError, match="row 2 has the index of another row, 12"):
        read_mmbench(bench(path, row, row))
    with pytest.raises(WingsError, match=r"passes is 'circle' \(did you mean 'circular'"):
        read_mmbench(bench(path, row), "circle")
    path.write_text("index\tquestion\n1\tq\n")
    with pytest.raises(WingsError, match="no field 'image'"):
        read_mmbench(path)


def test_a_circle_counts_once_as_it_comes_and_once_if_all_of_it_is_right(tmp_path, rows):
    """One knows the dog, one says A whatever is asked; the figures of both, from the file on."""
    main(["mmbench", str(bench(tmp_path / "t.tsv", *rows)), str(tmp_path / "i.jsonl")])
    items = [*read_items(tmp_path / "i.jsonl"), Item("finegrained", (), "yes")]
    always, knows = ["A"] * 6, ["B", "A", "a dog", "A. It barks", "C", "no"]
    found = Comparison("Pictures", "Asked.", items, always, knows)

    def right(circular):
        return [(a.right, a.total) for a in found.paired(ALL, circular).accuracies]

    # Three questions: plain counts their first item alone. A is right in no first item.
    assert right(circular=False) == right(circular=True) == [(0, 3), (2, 3)]
    knows[4] = "A"
    assert right(circular=False) == [(0, 3), (2, 3)] and right(circular=True) == [(0, 3), (1, 3)]
    # The two circles share a picture; the last question has none.
    assert found.clusters() == [0, 0, 1]
    assert found.paired("finegrained").changes == (0, 2)
    assert found.paired(ALL, circular=True).changes == (0, 1)
    figures = found.to_dict()
    assert figures["kinds"]["finegrained"]["after"]["percent"] == pytest.approx(200 / 3)
    assert figures["circular"]["finegrained"]["after"]["percent"] == pytest.approx(100 / 3)
    assert len(figures["answers"]) == 6 and figures["answers"][4]["circle"] == "t 12"
    names = [row[:2] for row in found.section().rows[1:]]
    assert names == [("finegrained", "3"), ("finegrained, circular", "3")]
    assert "all rotations are right" in found.section().sentence
    assert len(found.samples()) == 3
    # Without a circle nothing is said of any.
    alone = Comparison("Pictures", "Asked.", items[5:], always[5:], knows[5:])
    assert "circular" not in alone.to_dict() and len(alone.section().rows) == 2
    assert alone.section().sentence == "Asked."


def test_mmmu(tmp_path):
    row = {
        "id": "v_1", "question": "What is <image 1> beside <image 2>?",
        "options": "['<image 2>', 'two']", "answer": "B", "question_type": "multiple-choice",
        "subfield": "Optics", "image_1": {"bytes": picture(), "path": "1.png"},
        "image_2": {"bytes": picture("blue"), "path": "2.png"},
    }  # fmt: skip
    free = {**row, "question_type": "open", "answer": "['12', 'twelve']", "options": "[]"}

    def table(*rows):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), tmp_path / "m.parquet")
        return tmp_path / "m.parquet"

    choice, short = read_mmmu(table(row, free))
    assert choice.kind == "Optics" and [one.getpixel((0, 0))[0] for one in pictures(choice)] == [
        255, 0, 0,
    ]  # fmt: skip
    assert choice.messages[0]["content"][2]["text"] == " beside "
    assert [score(choice, "B"), score(short, "Twelve."), score(short, "13")] == [1, 1, 0]
    # As in MMMU's validation split: numbers at two decimals, their sign, intervals in brackets.
    for answer, right, wrong in (
        ("0.963", ("0.963", "0.96", ".96"), ("0.97", "96.3")),
        ("-120", ("-120", "-120.0"), ("120",)),
        ("30.0", ("30", "30.00."), ("300",)),
        ("7243000", ("7,243,000",), ("7,243",)),
        ("['24/7', '3.429']", ("24/7", "3.43", "3.429"), ("24", "7")),
        ("[0, 1)", ("[0, 1)",), ("0",)),
        ("[0, 1]", ("[0, 1]",), ("0", "1")),
    ):
        (item,) = read_mmmu(table({**free, "answer": answer}))
        assert all(score(item, said) == 1 for said in right), answer
        assert not any(score(item, said) for said in wrong), answer
    for change, said in (
        ({"answer": "C"}, "answer is 'C', but there are 2 options"),
        ({"options": "two"}, "options is 'two'; it must be a list"),
        ({"image_2": None}, "names <image 2> but has no picture"),
    ):
        with pytest.raises(WingsError, match=said):
            read_mmmu(table({**row, **change}))
    (tmp_path / "m.parquet").write_text("no table")
    with pytest.raises(WingsError, match="is not parquet"):
        read_mmmu(tmp_path / "m.parquet")


def test_the_command_writes_items(vqa):
    questions, annotations, folder = vqa
    files = dump(folder / "q.json", questions), dump(folder / "a.json", annotations)
    out = folder / "items.jsonl"
    assert main(["vqav2", *map(str, files), str(folder), str(out)]) == f"1 items in {out}"
    (item,) = read_items(out)
    assert item == read_vqav2(*files, folder)[0]
    for words, said in (
        ([], "'' is no format"),
        (["vqa2"], "did you mean 'vqav2'"),
        (["gqa", "x"], "gqa QUESTIONS IMAGES OUTPUT"),
        (["gqa", "nowhere.json", "x", "y"], "no file nowhere.json"),
    ):
        with pytest.raises(WingsError, match=said):
            main(words)


def test_pictures_in_a_record_stay_there(tmp_path):
    row = {
        "index": "1", "question": "?", "A": "x", "B": "y", "answer": "A", "category": "c",
        "image": base64.b64encode(picture()).decode(),
    }  # fmt: skip
    main(["mmbench", str(bench(tmp_path / "t.tsv", row)), str(tmp_path / "i.jsonl")])
    items = read_items(tmp_path / "i.jsonl")
    assert [pictures(item)[0].size for item in items] == [(5, 4)] * 2
