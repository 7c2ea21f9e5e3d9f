"""`Front`: the choice, the figures of the reported part, and the plot."""

import csv
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wings.eval.fronts.front import Front, FrontResult
from wings.eval.fronts.front_plot import front_figure
from wings.eval.fronts.questions import CHOICE, REPORT, FrontQuestions
from wings.eval.items import Item
from wings.eval.sense_drift import AnswerDrift, SenseDrift

COUNT = 40  # questions of a test, every other one to choose by
ITEM = Item("sums", ({"role": "user", "content": "?"},), "1")


def questions(*tests):
    parts = [CHOICE, REPORT] * (COUNT // 2)
    return FrontQuestions(
        {test: [ITEM] * COUNT for test in tests},
        {test: list(range(COUNT)) for test in tests},
        dict.fromkeys(tests, parts),
    )


def result(name, value=None, drift=None, **percents):
    """Scores with (percent to choose by, percent that is reported) of each test."""
    scores = {}
    for test, shares in percents.items():
        counts = [round(share * COUNT / 200) for share in shares]
        scores[test] = [float(n // 2 < counts[n % 2]) for n in range(COUNT)]
    return FrontResult(name, value, scores, drift)


def front(*merges, child, others=(), keep=2.0, drift=None):
    llm = result("the LLM", text=(95, 95), pictures=(10, 10))
    return Front(questions("text", "pictures"), llm, child, merges, others, keep)


CHILD = result("child", text=(50, 60), pictures=(80, 70))


def test_the_choice_uses_its_own_part_and_figures_are_those_of_the_other():
    best = result("weight 0.5", 0.5, text=(90, 70), pictures=(80, 65))
    # Better on the questions that are reported, which the choice must not see.
    tempting = result("weight 0.75", 0.75, text=(60, 100), pictures=(80, 75))
    found = front(tempting, best, child=CHILD)
    assert found.chosen is best and found.picture_floor == 78
    assert found.language(best) == 70 and found.pictures(best) == 65
    assert found.difference(best, CHILD, "text").value == pytest.approx(10)
    assert found.difference(best, CHILD, "pictures").value == pytest.approx(-5)


def test_merges_that_cost_pictures_are_not_chosen():
    costly = result("weight 0.25", 0.25, text=(95, 95), pictures=(70, 70))
    assert front(costly, child=CHILD).chosen is CHILD
    assert front(costly, child=CHILD, keep=10).chosen is costly


def test_of_equal_ones_pictures_decide_and_then_the_child():
    same = result("weight 1", 1.0, text=(50, 60), pictures=(80, 70))
    more = result("weight 0.9", 0.9, text=(50, 60), pictures=(85, 70))
    assert front(same, child=CHILD).chosen is CHILD
    assert front(same, more, child=CHILD).chosen is more


@given(
    st.lists(
        st.tuples(*[st.sampled_from(range(0, 101, 5))] * 2), min_size=1, max_size=8
    ),
    st.floats(0, 30),
)  # fmt: skip
def test_no_other_merge_that_keeps_the_pictures_has_more_text(points, keep):
    merges = [
        result(f"weight {n}", float(n), text=(text, 0), pictures=(pictures, 0))
        for n, (text, pictures) in enumerate(points)
    ]
    found = front(*merges, child=CHILD, keep=keep)
    assert found.pictures(found.chosen, CHOICE) >= found.picture_floor - 1e-6
    for merge in merges:
        if found.pictures(merge, CHOICE) >= found.picture_floor:
            assert found.language(merge, CHOICE) <= found.language(found.chosen, CHOICE)


def test_the_files_have_every_figure(tmp_path):
    drift = SenseDrift([AnswerDrift("sums", n, 2, 0.1 * n, 0.2, 0.3 * n) for n in range(4)])
    merge = result("weight 0.5", 0.5, drift, text=(90, 70), pictures=(80, 65))
    other = result("gentle", text=(60, 65), pictures=(75, 75))
    found = front(merge, child=CHILD, others=[other])
    found.write_csv(tmp_path / "front.csv")
    with (tmp_path / "front.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["model"] for line in lines[::2]] == ["the LLM", "weight 0.5", "child", "gentle"]
    reported = next(ln for ln in lines if ln["value"] == "0.5" and ln["part"] == REPORT)
    assert (reported["text"], reported["pictures"], reported["chosen"]) == ("70.00", "65.00", "1")
    assert float(reported["kl_alone"]) == pytest.approx(0.6 / 8, abs=1e-4)
    assert float(reported["kl_after"]) == pytest.approx(1.8 / 8, abs=1e-4)
    document = json.loads(json.dumps(found.to_dict()))
    assert document["chosen"] == "weight 0.5"
    assert document["merges"][0]["scores"]["text"] == merge.scores["text"]
    assert document["questions"]["text"]["parts"] == found.questions.parts["text"]
    figure = front_figure(found, "A $title$")
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["merges, by value", "the LLM", "child", "gentle", "chosen: weight 0.5"]
    figure.savefig(tmp_path / "front.png")
