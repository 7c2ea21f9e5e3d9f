"""Turns that need a picture and a fact: flags, the forms of each question, and the page."""

import io
import json
import random

import numpy as np
import pytest
from country_package import write_countries
from experiment_runs import LLM, SIZE, everything, result, rows_of, value_of
from PIL import Image
from rich.console import Console

from wings.errors import WingsError
from wings.eval.scoring.score import score
from wings.examples.drawings import Drawing
from wings.examples.experiment import flags, jobs
from wings.examples.experiment.cells import BY_KEY
from wings.examples.experiment.flags import read_flags
from wings.examples.experiment.packages import Packages
from wings.examples.experiment.runs import RunResult, add_run, borrow_sweeps, read_runs, sweep_runs
from wings.examples.experiment.studies import STUDIES
from wings.examples.experiment.trial import Trial
from wings.examples.experiment.turns import (
    BOTH,
    KNOWN,
    SEEN,
    TOLD,
    TURN_TESTS,
    UNSEEN,
    TurnsGallery,
    backwards,
)
from wings.examples.experiment.turns_page import (
    TURNS,
    given_halves,
    of_others,
    write_turns_page,
)


class Square(Drawing):
    """A drawing that needs no package."""

    def raster(self, side):
        return Image.new("RGBA", (side, side), "red")


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    folder = tmp_path_factory.mktemp("turns")
    names = [Square(name, name, "thing") for name in ("apple", "bus", "cat", "dog")]
    parts = {"train": names, "test": names}
    found = read_flags(write_countries(folder / "package"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flags, "raster_svg", lambda file, *size: Image.new("RGBA", size, "blue"))
        yield TurnsGallery(folder / "data", parts, names, found)


def test_a_flag_keeps_its_proportions_in_a_square(gallery):
    alpha = np.asarray(gallery.flags[0].raster(90))[..., 3]
    assert alpha.shape == (90, 90)
    assert not alpha[:15].any() and alpha[15:75].all() and not alpha[75:].any()


def test_flags_are_of_members_whose_capital_can_be_asked(tmp_path):
    package = write_countries(tmp_path / "package")
    found = read_flags(package)
    assert [flag.name for flag in found] == [
        "Bigland", "Cote", "Sand", "Rain", "Ice", "Snow", "Fog", "Wind"
    ]  # fmt: skip
    assert found[1].capital == "La" and found[1].group == "Africa"
    assert set(found[0].capitals) == {"La", "Oasis", "Puddle", "One", "Mexico City"}
    assert found[4].capitals == ("Man", "Horn", "Mill")
    with pytest.raises(WingsError, match=r"--flags is missing, .*npm pack world-countries"):
        read_flags(None)
    with pytest.raises(WingsError, match=r"no readable countries\.json .*npm pack world-countries"):
        read_flags(tmp_path)
    (package / "data" / "aaa.svg").unlink()
    with pytest.raises(WingsError, match=r"aaa\.svg is missing"):
        read_flags(package)


def question(item):
    content = item.messages[0]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def pictures(item):
    content = item.messages[0]["content"]
    return [] if isinstance(content, str) else [part["image"] for part in content[:-1]]


def test_every_turn_is_asked_in_five_forms_that_differ_in_nothing_else(gallery):
    assert gallery.more_tests("validation", 3) == {}
    tests = gallery.more_tests("test", 6)
    assert set(tests) == {*TURN_TESTS, TOLD} and {len(pairs) for pairs in tests.values()} == {24}
    countries = {flag.name: flag for flag in gallery.flags}
    for n in range(24):
        of = {name: pairs[n][0] for name, pairs in tests.items()}
        assert len({pairs[n][1] for pairs in tests.values()}) == 1
        assert {item.kind for item in of.values()} == {of[BOTH].kind}
        assert pictures(of[SEEN]) == pictures(of[BOTH]) and len(pictures(of[BOTH])) == 1
        assert pictures(of[UNSEEN]) == ["pictures/grey.png"]
        assert not pictures(of[KNOWN]) + pictures(of[TOLD])
        assert question(of[BOTH]) == question(of[UNSEEN])
        assert question(of[TOLD]).endswith(question(of[BOTH]))
        facts = [of[name] for name in (KNOWN, BOTH, UNSEEN, TOLD)]
        assert len({(item.answer, item.choices, item.scoring) for item in facts}) == 1
        # What is seen is named in the fact alone, and in words.
        shown = of[SEEN].answer
        assert score(of[SEEN], shown) == 1
        assert score(of[BOTH], of[BOTH].answer) == 1
        if of[BOTH].kind == "plus":
            shown = str(("one", "two", "three", "four").index(shown) + 1)
            first, second = question(of[KNOWN]).strip("?").split(" plus ")
            assert int(first.split()[-1]) + int(second) == int(of[BOTH].answer)
        else:
            assert len(set(of[BOTH].choices)) == 4 and of[BOTH].answer in of[BOTH].choices
        assert shown in question(of[KNOWN]) and shown in question(of[TOLD])
        assert shown not in question(of[BOTH])
        right = {
            "capital": lambda name: countries[name].capital,
            "continent": lambda name: countries[name].group,
            "backwards": backwards,
        }.get(of[BOTH].kind)
        assert right is None or right(shown) == of[BOTH].answer
    kinds = [item.kind for item, _ in tests[BOTH]]
    assert all(kinds.count(kind) == 6 for kind in ("capital", "continent", "backwards", "plus"))
    assert backwards("apple") == "E L P P A"


def test_training_names_flags_and_asks_for_no_fact_about_a_picture(gallery):
    rng = random.Random(0)
    asked = {
        question_of: kind
        for kind in (*gallery.captions, *gallery.trained)
        if kind not in ("scene", "pair")
        for question_of in [gallery.show(kind, "train", rng).question]
    }
    tested = {question(item) for item, _ in gallery.more_tests("test", 5)[BOTH]}
    assert "flag" in asked.values() and not set(asked) & tested


KINDS = ("capital", "plus")


def turn_scores(rng):
    return {
        test: {kind: [int(rng.random() < 0.6) for _ in range(20)] for kind in KINDS}
        for test in TURN_TESTS
    }


def with_turns(one, rng):
    record = dict(one.record)
    record["scores"] = {**record["scores"], **turn_scores(rng)}
    return RunResult(one.run, record)


def conditional(scores, kinds=KINDS):
    """Right turns and turns with both halves right, counted item by item."""
    right = count = 0
    for kind in kinds:
        rows = zip(*(scores[test][kind] for test in (SEEN, KNOWN, BOTH)), strict=True)
        for seen, known, both in rows:
            count += seen and known
            right += seen and known and both
    return right, count


def test_the_page_counts_turns_whose_halves_are_right(tmp_path):
    rng = random.Random(3)
    clusters = {kind: [f"{kind} {n // 2}" for n in range(20)] for kind in KINDS}
    llm = {
        **LLM,
        "clusters": {"test": {**LLM["clusters"]["test"], **dict.fromkeys(TURN_TESTS, clusters)}},
        "turns": {test: turn_scores(rng)[BOTH] for test in (KNOWN, TOLD)},
    }
    (tmp_path / "llm.json").write_text(json.dumps(llm))
    write_turns_page(tmp_path, [], SIZE)
    _, done = everything(tmp_path, cells=TURNS[:2])
    done = [with_turns(one, rng) if one.run.part == "run" else one for one in done]
    write_turns_page(tmp_path, done, SIZE)
    page = (tmp_path / "README.md").read_text()
    header, table = rows_of(page, "cell | given both halves")
    assert set(table) == {cell.name for cell in TURNS[:2]}
    _, kinds = rows_of(page, "cell | capital")
    for cell in TURNS[:2]:
        scores = [r.record["scores"] for r in done if (r.run.part, r.run.cell) == ("run", cell.key)]
        right, count = map(sum, zip(*map(conditional, scores), strict=True))
        shown = dict(zip(header[1:], table[cell.name], strict=True))
        assert value_of(shown["given both halves"]) == pytest.approx(100 * right / count, abs=0.06)
        assert float(shown["halves"]) == pytest.approx(count / 3, abs=0.06)
        for name, test in (("all", BOTH), ("grey", UNSEEN), ("picture half", SEEN)):
            bits = [bit for one in scores for kind in KINDS for bit in one[test][kind]]
            assert float(shown[name]) == pytest.approx(100 * np.mean(bits), abs=0.06)
        of_plus = [conditional(one, ["plus"]) for one in scores]
        right, count = map(sum, zip(*of_plus, strict=True))
        assert value_of(kinds[cell.name][1]) == pytest.approx(100 * right / count, abs=0.06)
    known, words = (llm["turns"][test] for test in (KNOWN, TOLD))
    both = sum(a & b for k in KINDS for a, b in zip(known[k], words[k], strict=True))
    expected = 100 * both / sum(map(sum, known.values()))
    assert f"{expected:.1f} percent of those whose fact it knows" in page


def test_kept_checkpoints_of_other_studies_are_scored_once(tmp_path, monkeypatch):
    for name in ("kept", "lines", "results"):
        (tmp_path / name).mkdir()
    cell = BY_KEY["learner-both-attended"]
    _, done = everything(tmp_path, cells=[cell], seeds=(0, 1))
    for one in done:
        add_run(tmp_path / "lines", one)
    kept = done[-1].run
    kept.output(tmp_path / "kept").mkdir(parents=True)
    (kept.output(tmp_path / "kept") / "config.json").touch()
    scores = turn_scores(random.Random(1))
    asked = []
    monkeypatch.setattr(jobs, "score_turns", lambda *work: asked.append(work) or {"scores": scores})

    class Inline:
        def submit(self, job, *work):
            return type("Done", (), {"result": lambda self: job(*work)})()

    one = Trial(STUDIES["turns"], [cell], (0,), SIZE, Packages())
    for _ in range(2):
        places = (tmp_path / "results", tmp_path / "kept", tmp_path / "lines")
        one.score_others(tmp_path, *places, Inline(), Console(file=io.StringIO()))
    assert [work[0] for work in asked] == [kept]
    assert asked[0][2] == tmp_path / "data"
    assert of_others(tmp_path / "results") == {cell.name: [scores]}


def test_without_right_halves_nothing_is_given():
    clusters = {"capital": ["a", "b"]}
    none = {SEEN: {"capital": [0, 1]}, KNOWN: {"capital": [1, 0]}, BOTH: {"capital": [1, 1]}}
    assert given_halves([none], clusters, ["capital"]) is None
    # A turn counts with its own halves only, and seeds are pooled.
    some = {SEEN: {"capital": [1, 1]}, KNOWN: {"capital": [1, 1]}, BOTH: {"capital": [1, 0]}}
    assert given_halves([none, some], clusters, ["capital"]).value == 50


def test_sweeps_are_taken_over_once(tmp_path):
    cell, other = BY_KEY["learner-both-attended"], BY_KEY["full"]
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    for run in (*sweep_runs(cell, SIZE), *sweep_runs(other, SIZE)):
        add_run(tmp_path / "a", result(run))
    for _ in range(2):
        borrow_sweeps(tmp_path / "b", tmp_path / "a", [cell], SIZE)
    assert [one.run for one in read_runs(tmp_path / "b")] == sweep_runs(cell, SIZE)
    assert read_runs(tmp_path / "b") == read_runs(tmp_path / "a")[:4]
