"""The report: the table and the plot say what the outcomes say, and nothing else."""

import io

import pytest
from matplotlib.figure import Figure
from PIL import Image

from wings.eval.report.method_results import (
    HEADERS,
    MethodResult,
    draw_panel,
    markdown,
    plot,
    short_count,
    table_rows,
)
from wings.eval.scoring.accuracy import Accuracy

BEFORE = Accuracy(120, 120)


def outcomes():
    return [
        MethodResult(
            "frozen", None, Accuracy(120, 120), Accuracy(114, 120), Accuracy(96, 120), 1500, 30.4
        ),
        MethodResult(
            "trained",
            1e-3,
            Accuracy(90, 120),
            Accuracy(60, 120),
            Accuracy(108, 120),
            2_340_000,
            61.6,
        ),
    ]


def test_the_table():
    first, frozen, trained = table_rows(BEFORE, outcomes())
    assert first == ("the language model before", "", "100.0 (97-100)", "", "", "")
    assert frozen[:2] == ("frozen", "2k")
    assert trained == (
        "trained at 1e-3", "2.3M", "75.0 (67-82)", "50.0 (41-59)", "90.0 (83-94)", "62 s",
    )  # fmt: skip
    brief = table_rows(BEFORE, outcomes(), intervals=False)
    assert brief[2] == ("trained at 1e-3", "2.3M", "75.0", "50.0", "90.0", "62 s")
    lines = markdown(BEFORE, outcomes()).splitlines()
    assert len(lines) == 2 + 3
    assert {line.count("|") for line in lines} == {len(HEADERS) + 1}


@pytest.mark.parametrize(
    ("count", "said"), [(999, "1k"), (16_500, "16k"), (1_234_567, "1.2M"), (7_000_000_000, "7.0B")]
)
def test_counts_are_short(count, said):
    assert short_count(count) == said


@pytest.mark.parametrize(("name", "heights"), [("text", [100, 75]), ("mixed", [95, 50])])
def test_marks_stand_where_the_scores_are(name, heights):
    axes = Figure().subplots()
    draw_panel(axes, BEFORE, outcomes(), name)
    marks = [c.get_offsets()[0].tolist() for c in axes.collections if len(c.get_offsets()) == 1]
    assert [80, heights[0]] in marks and [90, heights[1]] in marks
    for low, mark in ((axes.get_ylim()[0], min(heights)), (axes.get_xlim()[0], 80)):
        assert low < mark


def test_the_plot_is_a_picture(tmp_path):
    plot(tmp_path / "plot.png", BEFORE, outcomes(), "A title")
    with Image.open(io.BytesIO((tmp_path / "plot.png").read_bytes())) as image:
        assert image.width > 1500 and len(set(image.convert("L").tobytes())) > 20
