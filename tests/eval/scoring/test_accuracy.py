"""Scores: what counts as right, what is counted, and how sure a count is."""

import pytest

from wings.eval.items import Item
from wings.eval.scoring.accuracy import Accuracy, overall, score_by_kind
from wings.eval.scoring.score import is_exact, score


@pytest.mark.parametrize(
    ("said", "answer", "right"),
    [
        ("two", "two", True),
        (" two. ", "two", True),
        ("red  star\n", "red star", True),
        ("Two", "two", False),
        ("RED STAR", "RED STAR", True),
        ("two shapes", "two", False),
        ("", "two", False),
    ],
)
def test_right_is_word_for_word(said, answer, right):
    assert is_exact(said, answer) is right


def test_scores_by_kind_and_overall():
    items = [Item(kind, (), answer) for kind, answer in (("a", "1"), ("b", "2"), ("a", "3"))]
    scores = score_by_kind(items, ["1", "2", "4"])
    assert scores == {"a": Accuracy(1, 2), "b": Accuracy(1, 1)}
    assert overall(scores.values()) == Accuracy(2, 3)


def test_every_item_needs_an_answer():
    with pytest.raises(ValueError, match="shorter"):
        score_by_kind([Item("a", (), "1")], [])


def test_the_interval_is_wilsons():
    # 8 of 10: Wilson 1927 gives 49.0 to 94.3 percent.
    low, high = Accuracy(8, 10).interval
    assert (round(low, 1), round(high, 1)) == (49.0, 94.3)
    low, high = Accuracy(240, 240).interval
    assert high == 100.0 and 98 < low < 99
    assert Accuracy(0, 5).interval[0] == 0.0


def test_a_talkative_answer_may_name_it():
    whole, named = (Item("a", (), "Rome", way) for way in ("exact", "mention"))
    said = "The capital is **rome**, of course."
    assert [score(item, said) for item in (whole, named)] == [0.0, 1.0]
    assert score(named, "Romeo") == 0.0 and score(named, "Rome") == 1.0
    assert score_by_kind([whole, named], [said] * 2) == {"a": Accuracy(1, 2)}
