"""What an answer is worth: choices, short answers, soft accuracy, and what a program checks."""

import json

import pytest

from wings.errors import WingsError
from wings.eval.items import Item, read_items, write_items
from wings.eval.scoring.checks import RULES, passes, validate_checks
from wings.eval.scoring.score import parse_choice, score, score_all, share_passed, with_choices
from wings.eval.scoring.short_answers import normalise_short, soft_accuracy

CHOICES = ("a cat", "a dog", "a big dog", "none")


@pytest.mark.parametrize(
    ("said", "choice"),
    [
        ("B", "a dog"),
        ("b", "a dog"),
        ("(C)", "a big dog"),
        ("D.", "none"),
        ("A. a cat", "a cat"),
        ("B) because it barks, not A", "a dog"),
        ("The answer is C.", "a big dog"),
        ("I think the answer: (B)", "a dog"),
        ("Option D fits", "none"),
        ("It is A BIG DOG.", "a big dog"),
        ("It is a dog, surely", "a dog"),
        ("A cat", "a cat"),
        ("a cat or a dog", None),
        ("A horse", None),
        ("E", None),
        ("nonesuch", None),
        ("", None),
    ],
)
def test_a_choice_is_read_from_an_answer(said, choice):
    assert parse_choice(said, CHOICES) == choice


def test_letters_come_before_texts():
    assert parse_choice("A", ("B", "A")) == "B"
    assert parse_choice("3", ("3", "13")) == "3"
    asked = with_choices("Which?", ("x", "y"))
    assert asked.splitlines()[:3] == ["Which?", "A. x", "B. y"]


@pytest.mark.parametrize("reference", ["Red", "red.", "a red arrow.", "Red!"])
def test_a_reference_may_end_as_a_sentence(reference):
    item = Item("all", (), reference, "mention")
    assert score(item, "It is a RED arrow, I think") == 1
    assert score(item, "It is a redder arrow") == 0


def test_nothing_to_choose_from_is_refused():
    with pytest.raises(WingsError, match="nothing to choose from"):
        score(Item("all", (), "a", "choice"), "a")


@pytest.mark.parametrize(
    ("said", "same"),
    [
        ("The cat.", "cat"),
        ("Two", "2"),
        ("none", "0"),
        ("dont", "don't"),
        ("Red, white", "red white"),
        ("1,000", "1000"),
        ("2.5", "2.5"),
        ("U.S.", "us"),
        ("black/white", "black white"),
        ("  an  old\nman ", "old man"),
        ("what?!", "what"),
        ("an", ""),
    ],
)
def test_short_answers_are_normalised(said, same):
    assert normalise_short(said) == same


@pytest.mark.parametrize(
    ("agree", "worth"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)]
)
def test_soft_accuracy_of_ten(agree, worth):
    answers = ["a cat"] * agree + ["dog"] * (10 - agree)
    assert soft_accuracy("Cat.", answers) == pytest.approx(worth)


def test_every_scoring():
    items = [
        Item("k", (), "Paris"),
        Item("k", (), "one", "short", references=("a single one",)),
        Item("k", (), "cat", "vqa", references=("cat",) * 3 + ("dog",) * 7),
        Item("k", (), "dog", "choice", ("cat", "dog")),
        Item("k", (), "", "checks", checks=({"rule": "upper"}, {"rule": "lines", "count": 1})),
    ]
    assert score_all(items, ["Paris.", "Single one", "cat", "B", "A\nB"]) == pytest.approx(
        [1, 1, 0.9, 1, 0]
    )
    assert share_passed(items[4], "A\nB") == 0.5
    assert score_all(items, ["paris", "two", "bird", "A", "a"]) == [0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        ({"rule": "mentions", "text": "Paris"}, "It is PARIS.", "Parisian"),
        ({"rule": "without", "text": "sea"}, "seaside", "the Sea"),
        ({"rule": "without", "text": ","}, "a b", "a, b"),
        ({"rule": "times", "text": "so", "count": 2}, "so, so", "so soso"),
        ({"rule": "number", "value": 1200}, "3 times 400 is 1,200.", "1,200 minus 3"),
        ({"rule": "number", "value": -4}, "It is -4", "4"),
        ({"rule": "words", "at_least": 2, "at_most": 3}, "one two", "one two three four"),
        ({"rule": "words", "at_least": 2}, "one two three four", "one"),
        ({"rule": "lines", "count": 2}, "a\n\nb\n", "a"),
        ({"rule": "bullets", "count": 2}, "- a\n* b", "- a\nb"),
        ({"rule": "numbered", "count": 2}, "1. a\n2) b", "1. a\n3. b"),
        ({"rule": "commas", "count": 3}, "a, b, c.", "a, b,"),
        ({"rule": "starts", "text": "In short,"}, " In short, no", "in short, no"),
        ({"rule": "ends", "text": "The end."}, "So. The end.\n", "The end"),
        ({"rule": "last word", "text": "In"}, "It is (In).", "in"),
        ({"rule": "upper"}, "A, B 3", "A b"),
        ({"rule": "lower"}, "a b", "12"),
        ({"rule": "json", "keys": ["a"]}, '```json\n{"a": 1}\n```', '{"a": 1, "b": 2}'),
    ],
)
def test_checks(check, right, wrong):
    validate_checks([check], "here")
    assert passes(check, right) and not passes(check, wrong)
    assert not passes(check, "") or check["rule"] == "without"


def test_every_rule_is_tested():
    tested = {case[0]["rule"] for case in test_checks.pytestmark[0].args[1]}
    assert tested == set(RULES)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"scoring": "choise"}, r"scoring is 'choise' \(did you mean 'choice'"),
        ({"scoring": "choice"}, "no choices"),
        ({"scoring": "choice", "choices": ["a", "b"]}, "none of its choices"),
        ({"choices": "ab"}, "give a list of texts"),
        ({"references": [1]}, "give a list of texts"),
        ({"scoring": "vqa"}, "no annotators"),
        ({"scoring": "checks"}, "scored by checks and has none"),
        ({"checks": {"rule": "upper"}}, "give a list of mappings"),
        ({"checks": ["upper"]}, "no known rule"),
        ({"checks": [{"rule": "uper"}]}, "did you mean 'upper'"),
        ({"checks": [{"rule": "lines"}]}, "lines takes count"),
        ({"checks": [{"rule": "lines", "count": "2"}]}, "must be of type int"),
        ({"checks": [{"rule": "words", "at_most": "2"}]}, "give a number"),
        ({"checks": [{"rule": "upper", "count": 2}]}, "upper takes no field"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, more, said):
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "c"}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": turns, **more}))
    with pytest.raises(WingsError, match=rf"a\.jsonl line 1.*{said}"):
        read_items(tmp_path / "a.jsonl")


def test_items_come_back_as_they_were_written(tmp_path):
    ask = ({"role": "user", "content": "é?"},)
    items = [
        Item("a", ask, "x"),
        Item("b", ask, "x", "choice", ("x", "y")),
        Item("c", ask, "x", "vqa", references=("x",) * 10),
        Item("d", ask, "X", "checks", checks=({"rule": "upper"},)),
    ]
    write_items(tmp_path / "a.jsonl", items)
    assert read_items(tmp_path / "a.jsonl") == items
