"""The study of photographs: which pictures are photographs, their gallery, and its page."""

import json
import random

import numpy as np
import pytest
from experiment_runs import LLM, SIZE, everything, mean, rows_of, value_of
from PIL import Image

from wings.errors import WingsError
from wings.examples.experiment.photographs import (
    GROUPS,
    NAMED_LIMIT,
    PhotographGallery,
    asked_by_name,
    read_photographs,
)
from wings.examples.experiment.photographs_page import PHOTOGRAPHS, write_photographs_page
from wings.examples.experiment.runs import percent


def write_stamp(root, name, caption, noise=True, size=(60, 50)):
    """A picture of noise, as a photograph has it, or of one colour, with its caption."""
    path = root / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*size[::-1], 4), 255, np.uint8)
    if noise:
        pixels[..., :3] = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3))
    Image.fromarray(pixels, "RGBA").save(path)
    if caption:
        path.with_suffix(".txt").write_text(f"{caption}\nde.utf8=Ein Bild.", encoding="utf-8")


@pytest.fixture
def package(tmp_path):
    root = tmp_path / "stamps" / "usr" / "share" / "tuxpaint" / "stamps"
    write_stamp(root, "animals/birds/heron", "A great blue heron.")
    write_stamp(root, "animals/birds/flying", "A great blue heron.")
    write_stamp(root, "animals/birds/owl", "An owl.")
    write_stamp(root, "animals/mammals/cats/lion", "A lion.")
    write_stamp(root, "animals/mammals/cartoon/cow", "A cow.")
    write_stamp(root, "food/fruit/flat", "A plum.", noise=False)
    write_stamp(root, "food/fruit/small", "A plum.", size=(30, 60))
    write_stamp(root, "food/fruit/many", "Two cherries are on a tree.")
    write_stamp(root, "food/fruit/mute", None)
    return tmp_path / "stamps"


def test_photographs_have_a_short_caption_and_many_colours(package, tmp_path):
    found = read_photographs(package)
    assert [(one.code, one.name, one.group) for one in found] == [
        ("animals/mammals/cats/lion", "lion", "mammal"),
        ("animals/birds/flying", "great blue heron", "bird"),
        ("animals/birds/heron", "great blue heron", "bird"),
        ("animals/birds/owl", "owl", "bird"),
    ]
    # A name is asked of one photograph.
    assert [one.code for one in asked_by_name(found)] == [
        "animals/mammals/cats/lion", "animals/birds/flying", "animals/birds/owl"
    ]  # fmt: skip
    assert len(asked_by_name([one for one in found for _ in range(NAMED_LIMIT)])) == 3
    assert set(GROUPS) >= {one.group for one in found}
    (tmp_path / "none").mkdir()
    with pytest.raises(WingsError, match="has no photographs with captions; run: apt-get"):
        read_photographs(tmp_path / "none")
    with pytest.raises(WingsError, match=r"--stamps is missing, .*apt-get download"):
        read_photographs(None)


def test_a_gallery_of_photographs_shows_them_without_scenes(package, tmp_path):
    found = read_photographs(package)
    ink = np.asarray(found[0].raster(96))
    rows, columns = np.nonzero(ink[..., 3])
    # The picture keeps its proportions, in the middle.
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 87, 0, 95)
    gallery = PhotographGallery(tmp_path / "data", {"train": found, "test": found}, found[:2])
    rng = random.Random(0)
    kinds = {*gallery.captions, *gallery.trained, *gallery.followed, *gallery.before}
    assert kinds == {"name", "group", "count", "pair"}
    item, cluster = gallery.item("name", "test", rng)
    assert item.answer in ("lion", "great blue heron") and cluster in [o.code for o in found[:2]]
    seen = Image.open(tmp_path / "data" / item.messages[0]["content"][0]["image"])
    assert seen.size == (224, 224)
    assert gallery.item("group", "test", rng)[0].answer in ("mammal", "bird")


def test_the_page_of_photographs_is_that_of_the_runs(tmp_path):
    kinds = {"name", "scene"}
    assert set(LLM["guess"]["pictures"]) == kinds
    (tmp_path / "llm.json").write_text(json.dumps(LLM))
    write_photographs_page(tmp_path, [], SIZE)
    _, done = everything(tmp_path, cells=PHOTOGRAPHS)
    write_photographs_page(tmp_path, done, SIZE)
    page = (tmp_path / "README.md").read_text()
    header, table = rows_of(page, "cell | pictures | text after")
    assert set(table) == {cell.name for cell in PHOTOGRAPHS}
    for cell in PHOTOGRAPHS:
        records = [r.record for r in done if (r.run.part, r.run.cell) == ("run", cell.key)]
        shown = dict(zip(header[1:], table[cell.name], strict=True))
        pictures = mean(percent(r["scores"]["pictures"]) for r in records)
        assert value_of(shown["pictures"]) == pytest.approx(pictures, abs=0.06)
        assert shown["seeds"] == "3"
    assert "paired difference in pictures" in page and "Not finished" not in page
