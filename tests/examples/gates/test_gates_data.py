"""Data of the gate experiment: follow-ups can only be answered from an earlier picture."""

import json

import pytest
from PIL import Image

from wings.eval.items import pictures_of, read_items
from wings.examples.gates.gates_data import FOLLOW_UPS, TEST, VALIDATION, GateWriter, draw_training
from wings.examples.gates.trainings import GATES, ORDER, SEEDS, all_trainings, method_of
from wings.examples.quickstart.texts import KINDS

AMOUNTS = {"pictures": 6, "mixed": 8, "follow_ups": 9}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gates") / "test"
    GateWriter(folder, TEST).write_questions(AMOUNTS)
    return folder


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_follow_ups_have_their_picture_in_an_earlier_turn(folder):
    items = read_items(folder / "follow_ups.jsonl")
    assert [item.kind for item in items] == list(FOLLOW_UPS) * 3
    for item in items:
        assert isinstance(item.messages[-1]["content"], str)
        pictures = pictures_of(item)
        assert len(pictures) == (2 if item.kind == "first of two pictures" else 1)
        for picture in pictures:
            with Image.open(picture) as image:
                assert image.size == (32, 32)
        questions = [one["content"] for one in item.messages if one["role"] == "user"]
        if item.kind == "after a text turn":
            assert len(questions) == 3 and isinstance(questions[1], str)
        if item.kind == "same picture":
            assert questions[0][-1]["text"] != questions[1]


def test_a_mixed_item_has_the_same_exchange_in_words(folder):
    records = lines(folder / "mixed.jsonl")
    assert [record["kind"] for record in records] == list(KINDS) * 2
    for record in records:
        shown, said = record["messages"], record["words"]
        assert shown[1:] == said[1:] and isinstance(said[0]["content"], str)
        assert said[0]["content"].endswith(shown[0]["content"][-1]["text"])
        assert len(said[0]["content"]) > len(shown[0]["content"][-1]["text"])


def test_questions_are_others_than_those_of_the_validation_and_the_trainings(folder, tmp_path):
    GateWriter(tmp_path / "validation", VALIDATION).write_questions(AMOUNTS)
    draw_training(tmp_path / "data", SEEDS[0], 12)
    for name in AMOUNTS:
        test = (folder / f"{name}.jsonl").read_text()
        assert test != (tmp_path / "validation" / f"{name}.jsonl").read_text()
    assert not {TEST, VALIDATION} & set(SEEDS)
    records = lines(tmp_path / "data" / "pictures.jsonl")
    assert len(records) == 12

    def goes_back(record):
        """A question about a picture after a turn without one, or about the first of two turns."""
        users = [one["content"] for one in record["messages"] if one["role"] == "user"]
        has_picture = [not isinstance(content, str) for content in users]
        return "first picture" in str(users[-2]) or sum(has_picture) < len(users) - 1

    assert all(goes_back(record) for record in records[1::2])


def test_trainings_name_every_gate_and_each_once():
    trainings = list(all_trainings())
    assert len({one.name for one in trainings}) == len(trainings) == len(ORDER) * len(SEEDS)
    assert {one.gate for one in trainings} == set(GATES)
    for gate in GATES:
        first = method_of(gate).first_stage
        assert first["learners"] == ["image"] and first["router"] is None
    assert method_of("hill, detached").wings["gate_detach"] is True
