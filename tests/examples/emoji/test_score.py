"""Scoring of answers about drawings, and replaced pictures."""

import pytest

from wings.errors import WingsError
from wings.eval.items import Item, without_sources
from wings.eval.scoring.checks import mentions
from wings.examples.emoji.score import count, is_right, score_folder, with_picture

GROUPS = ["animal", "drink", "tool", "hand"]


def item(kind: str, answer: str) -> Item:
    parts = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What is this?"}]
    return Item(kind, ({"role": "user", "content": parts},), answer)


@pytest.mark.parametrize(
    ("prediction", "right"),
    [("animal", True), ("It is an Animal.", True), ("a tool, no animal", False), ("", False),
     ("animals", False), ("a handle of an animal", True)],
)  # fmt: skip
def test_the_first_group_that_is_named_counts(prediction, right):
    assert is_right(item("group", "animal"), prediction, GROUPS) is right


@pytest.mark.parametrize(
    ("prediction", "answer", "right"),
    [("The capital is PARIS.", "Paris", True), ("a catalogue", "cat", False),
     ("t-shirt", "t-shirt", True), ("South America", "America", True), ("tee", "t-shirt", False)],
)  # fmt: skip
def test_a_reference_counts_as_whole_words(prediction, answer, right):
    assert mentions(prediction, answer) is right


def test_groups_are_counted_together_and_one_by_one():
    items = [
        item("group", "animal"),
        item("group", "animal"),
        item("group", "tool"),
        item("name", "cat"),
    ]
    scores = count(items, ["animal", "tool", "a tool", "dog"], GROUPS)
    assert {kind: (s.right, s.total) for kind, s in scores.items()} == {
        "group": (2, 3), "group/animal": (1, 2), "group/tool": (1, 1), "name": (0, 1),
    }  # fmt: skip


def test_a_picture_is_replaced_or_gone_and_the_question_stays():
    one = item("name", "cat")
    blank = with_picture(one, "blank.png").messages[0]["content"]
    assert [part.get("image") or part["text"] for part in blank] == ["blank.png", "What is this?"]
    assert without_sources(one).messages[0]["content"] == "What is this?"
    assert one.messages[0]["content"][0]["image"] == "a.png"


def test_a_folder_without_a_trained_model_is_refused(tmp_path):
    with pytest.raises(WingsError, match="no trained model"):
        score_folder(tmp_path)
