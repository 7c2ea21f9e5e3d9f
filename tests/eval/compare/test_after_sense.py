"""A kind that falls after an image is seen, though the total stays; and the verdict names it."""

from dataclasses import replace

import pytest

from wings.eval.compare.after_sense import AfterSense
from wings.eval.compare.comparison import Comparison
from wings.eval.items import Item, question_alone
from wings.eval.verdict import verdict

RIGHT, WRONG = "7", "8"


def conversation(n, kind):
    seen = [{"type": "image", "image": f"{kind} {n}.png"}, {"type": "text", "text": "What?"}]
    turns = [("system", "Be short."), ("user", seen), ("assistant", "A cat."), ("user", f"Sum {n}")]
    return Item(kind, tuple({"role": r, "content": c} for r, c in turns), RIGHT)


def answers(*right):
    """Of 48 questions a kind, the first `right` are answered right."""
    return [RIGHT if n < count else f"{WRONG} {kind}" for kind, count in enumerate(right)
            for n in range(48)]  # fmt: skip


def after_image(llm_alone, model_alone, words, image, kinds=("sums", "capitals")):
    items = [conversation(n, kind) for kind in kinds for n in range(48)]
    alone = [question_alone(item) for item in items]
    return AfterSense(
        Comparison("Alone", "", alone, answers(*llm_alone), answers(*model_alone)),
        Comparison("Conversations", "", items, answers(*words), answers(*image)),
    )


def test_a_question_alone_keeps_its_system_message():
    alone = question_alone(replace(conversation(3, "sums"), cluster="c"))
    assert [(m["role"], m["content"]) for m in alone.messages] == [
        ("system", "Be short."), ("user", "Sum 3"),
    ]  # fmt: skip
    assert (alone.answer, alone.kind, alone.cluster) == (RIGHT, "sums", "c")
    pictured = [{"type": "image", "image": "a"}, {"type": "text", "text": "One?"}]
    once = Item("k", ({"role": "user", "content": pictured},), "a")
    assert question_alone(once).messages == ({"role": "user", "content": "One?"},)


def test_a_kind_that_falls_is_seen_though_the_total_stays():
    found = after_image((9, 30), (9, 30), (9, 30), (0, 39))
    rows = {row[0]: row for row in found.section().rows[1:]}
    assert list(rows) == ["all", "sums", "capitals"]
    assert rows["all"][1:4] == ("40.6 / 40.6", "40.6 / 40.6", rows["all"][3])
    assert rows["all"][3].startswith("+0.0 (")
    assert rows["sums"][1:3] == ("18.8 / 18.8", "18.8 / 0.0")
    assert rows["sums"][3].startswith("-18.8 (-") and rows["sums"][4].startswith("81.2 (")
    figures = found.to_dict()["kinds"]["sums"]
    assert figures["alone"]["llm"]["right"] == 9 and figures["after"]["model"]["right"] == 0
    low, high = figures["model_after_minus_alone"]["interval"]
    assert low < -18.75 < high < 0 and figures["clusters"] == 48
    (_, line) = verdict({"after_image": found})
    assert "changed by +0.0 points" in line and "Asked alone, the model has 40.6% (" in line
    assert "Lost most: sums, from 18.8 to 0.0%, -18.8 points (" in line and "capitals" not in line


def test_same_answers_are_told_from_right_ones():
    found = after_image((9, 9), (9, 9), (0, 0), (0, 0))
    other = replace(found.after, after=[f" {a}. " for a in found.after.before])
    assert replace(found, after=other).after.same_answers("all").right == 96
    changed = replace(found.after, after=["9"] * 96)
    rows = replace(found, after=changed).section().rows
    assert rows[1][2] == "0.0 / 0.0" and rows[1][4].startswith("0.0 (")
    line = verdict({"after_image": replace(found, after=changed)})[1]
    assert "changed by +0.0 points" in line and "0.0% (0-4) of the answers are the same" in line


def test_a_verdict_is_a_line_a_kind():
    found = after_image((9, 30), (8, 30), (9, 30), (9, 30))
    lines = verdict({"after_image": found, "pictures": found.alone})
    assert [line.partition(":")[0] for line in lines] == [
        "Text alone", "Text after an image", "Images",
    ]  # fmt: skip
    assert "changed by -1.0 points (" in lines[0]
    assert "all answers kept. All 96 answers are those of the LLM after the same" in lines[1]
    assert "Lost most" not in lines[1] and lines[2].endswith("0.0).")
    kept = verdict({"text": found.after})
    assert kept == ["Text alone: kept exactly. All 96 answers are those of the LLM, "
                    "40.6% (31-51) right."]  # fmt: skip
    assert verdict({}) == []


def test_one_kind_loses_no_kind_most():
    found = after_image((9,), (9,), (9,), (0,), kinds=("sums",))
    assert [row[0] for row in found.section().rows[1:]] == ["sums"]
    line = verdict({"after_image": found})[1]
    assert "changed by -18.8 points" in line and "Lost most" not in line


@pytest.mark.parametrize("kinds", [("a", "b", "c", "d", "e")])
def test_the_worst_kinds_come_first(kinds):
    found = after_image([40] * 5, [40] * 5, [40] * 5, [30, 10, 41, 20, 0], kinds)
    line = verdict({"after_image": found})[1]
    lost = line.partition("Lost most: ")[2]
    assert [part[0] for part in lost.split("; ")] == ["e", "b", "d"]
