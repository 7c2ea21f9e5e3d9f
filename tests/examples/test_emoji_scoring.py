"""How answers about drawings are counted, and what takes the place of a picture."""

import pytest

from wings.errors import WingsError
from wings.eval.items import Item
from wings.eval.scoring.checks import mentions
from wings.examples.emoji.score import count, is_right, replaced, score_folder

GROUPS = ["animal", "drink", "tool", "hand"]


def item(kind: str, answer: str) -> Item:
    parts = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What is this?"}]
    return Item(kind, ({"role": "user", "content": parts},), answer)


@pytest.mark.parametrize(
    ("said", "right"),
    [("animal", True), ("It is an Animal.", True), ("a tool, no animal", False), ("", False),
     ("animals", False), ("a handle of an animal", True)],
)  # fmt: skip
def test_the_first_group_that_is_named_counts(said, right):
    assert is_right(item("group", "animal"), said, GROUPS) is right


@pytest.mark.parametrize(
    ("said", "answer", "right"),
    [("The capital is PARIS.", "Paris", True), ("a catalogue", "cat", False),
     ("t-shirt", "t-shirt", True), ("South America", "America", True), ("tee", "t-shirt", False)],
)  # fmt: skip
def test_a_reference_counts_as_whole_words(said, answer, right):
    assert mentions(said, answer) is right


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
    blank = replaced(one, "blank.png").messages[0]["content"]
    assert [part.get("image") or part["text"] for part in blank] == ["blank.png", "What is this?"]
    assert replaced(one, None).messages[0]["content"] == "What is this?"
    assert one.messages[0]["content"][0]["image"] == "a.png"


def test_a_folder_without_a_trained_model_is_refused(tmp_path):
    with pytest.raises(WingsError, match="no trained model"):
        score_folder(tmp_path)
