"""The conversations and files of `wings emoji`, on a catalogue made for the test."""

import json
import random

from PIL import Image

from wings.examples import drawings
from wings.examples.conversations import fact_questions
from wings.examples.drawings import GROUPS, Drawing
from wings.examples.emoji import data

DRAWINGS = [
    Drawing(f"{g}-{n}", f"{g} {n}" if n % 2 else f"{g}{n}", g) for g in GROUPS for n in range(70)
]


def test_a_name_is_never_said_before_the_group_is_asked():
    text_pairs = [("What is the capital of France?", "Paris.")]
    asked_text = 0
    for drawing in random.Random(0).sample(DRAWINGS, 80):
        for number in range(12):
            turns = data.instruction(drawing, "p.png", number, number < 6, text_pairs)
            answers = [turn["content"] for turn in turns if turn["role"] == "assistant"]
            assert answers[0] in {drawing.group, drawing.name}
            if drawing.name in answers:
                assert drawing.group not in answers[answers.index(drawing.name) :]
            asked_text += "Paris." in answers
    assert asked_text > 100


def test_text_questions_of_the_test_are_not_trained_on():
    train, test = data.split_text(fact_questions())
    assert len(test) > 40
    assert not {q for q, _ in train} & {q for q, _ in test}


def test_an_answer_that_was_cut_is_not_taught():
    pairs = data.whole_sentences(["a", "b", "c"], ["Yes. And so", "It is of the", " Oslo.\nMore"])
    assert pairs == [("a", "Yes."), ("c", "Oslo.")]


def test_files_hold_what_was_promised(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "render", lambda *args: Image.new("RGB", (4, 4)))
    monkeypatch.setattr(drawings, "drawing_folder", lambda: tmp_path)
    amounts = data.EmojiAmounts(renderings=(3, 2))
    counts = data.write(tmp_path, DRAWINGS, lambda texts: ["Yes."] * len(texts), amounts)
    lines = {
        name: [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in counts
    }
    assert {name: len(records) for name, records in lines.items()} == counts

    def pictures(records):
        return {
            part["image"]
            for record in records
            for message in record["messages"]
            if not isinstance(message["content"], str)
            for part in message["content"]
            if part["type"] == "image"
        }

    trained = pictures(lines["align"]) | pictures(lines["instruct"])
    assert not trained & pictures(lines["test"] + lines["validation"])
    assert all((tmp_path / name).exists() for name in trained | pictures(lines["test"]))
    seen = {name.rsplit("-", 1)[0] for name in trained}
    for kind, known in (("group", False), ("name", True)):
        records = [r for r in lines["test"] + lines["validation"] if r["kind"] == kind]
        codes = {name.rsplit("-", 1)[0] for name in pictures(records)}
        assert (codes <= seen) is known
        assert bool(codes & seen) is known
