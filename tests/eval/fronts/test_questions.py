"""`FrontQuestions`: a part to choose by and a part to report, split by clusters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wings.errors import WingsError
from wings.eval.data import EvalData
from wings.eval.fronts.questions import CHOICE, PARTS, REPORT, FrontQuestions
from wings.eval.items import Item


def text(n, kind="sums"):
    return Item(kind, ({"role": "user", "content": f"What is {n} + 1?"},), str(n + 1))


def picture(n, kind="name", cluster=""):
    parts = [{"type": "image", "image": f"{n}.png"}, {"type": "text", "text": "Which?"}]
    return Item(kind, ({"role": "user", "content": parts},), str(n), cluster=cluster)


def after(n, shown, kind="sums"):
    question = text(n, kind)
    exchange = (*picture(shown).messages, {"role": "assistant", "content": "a star"})
    return Item(kind, (*exchange, *question.messages), question.answer)


@given(st.data())
def test_no_cluster_is_in_two_parts_and_parts_are_even(draws):
    kinds = st.sampled_from(["sums", "facts"])
    numbers = st.lists(st.integers(0, 30), min_size=12, max_size=40)
    texts = [text(n, draws.draw(kinds)) for n in draws.draw(numbers)]
    mixed = [after(n, n % 5) for n in draws.draw(numbers)]
    shown = [
        picture(n, cluster=draws.draw(st.sampled_from(["", "cat", "dog"])))
        for n in draws.draw(numbers)
    ]
    try:
        found = FrontQuestions.split(EvalData(texts, shown, mixed))
    except WingsError as error:
        assert "too few different questions" in str(error)
        return
    part_of, new = {}, {}
    for test, items in found.items.items():
        for item, cluster, part in zip(items, found.clusters[test], found.parts[test], strict=True):
            if cluster not in part_of:
                new.setdefault((test, item.kind), []).append(part)
                part_of[cluster] = part
    # Clusters of a kind go to both parts in turn, whatever their sizes.
    assert all(parts == [PARTS[n % 2] for n in range(len(parts))] for parts in new.values())
    for test, items in found.items.items():
        assert len(items) == len(found.clusters[test]) == len(found.parts[test])
        for item, cluster, part in zip(items, found.clusters[test], found.parts[test], strict=True):
            assert part_of.setdefault(cluster, part) == part
            if test != "pictures":
                # A question is on one side alone and after an image.
                words = item.messages[-1]["content"], item.answer
                assert part_of.setdefault(words, part) == part
        assert set(found.parts[test]) == set(PARTS)
        assert found.reported(test) == [
            item for item, part in zip(items, found.parts[test], strict=True) if part == REPORT
        ]


def test_every_other_question_of_a_kind_is_to_choose_by():
    data = EvalData([text(n) for n in range(6)], [picture(n) for n in range(5)])
    found = FrontQuestions.split(data)
    assert found.parts["text"] == [CHOICE, REPORT] * 3
    assert found.parts["pictures"] == [CHOICE, REPORT, CHOICE, REPORT, CHOICE]
    assert found.language_tests == ["text"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (EvalData([text(1), text(2)]), "give --pictures"),
        (EvalData(pictures=[picture(1), picture(2)]), "--text or --conversations"),
        (EvalData([text(1), text(2)], [picture(1), picture(1)]), "--pictures has too few"),
        (EvalData([text(1), text(1)], [picture(1), picture(2)]), "--text has too few"),
    ],
)
def test_questions_that_cannot_be_split_are_refused(data, said):
    with pytest.raises(WingsError, match=said):
        FrontQuestions.split(data)
