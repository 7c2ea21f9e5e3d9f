"""The attention shift within a report: that of both models, or a sentence why there is none."""

import pytest
from PIL import Image

from wings.errors import WingsError
from wings.eval.attention import attention_shift
from wings.eval.attention.attention_shift import measure_attention_shift
from wings.eval.attention.shift import ShiftOptions, measure_shift
from wings.eval.data import EvalData
from wings.eval.evaluation import evaluate
from wings.eval.items import Item


def conversation(picture, letter):
    parts = [{"type": "text", "text": letter}, {"type": "image", "image": picture}]
    return Item("k", ({"role": "user", "content": [*parts, {"type": "text", "text": "b"}]},), "a")


def test_it_is_the_shift_of_each_model(chain, winged, make_runner, picture):
    (llm, *_), (model, *_) = chain(1, "a"), winged(2, "b")
    items = [conversation(picture, letter) for letter in "abc"]
    found = measure_attention_shift(llm, model, items, make_runner())
    for subject, shift in ((llm, found.llm), (model, found.model)):
        alone = measure_shift(subject.model, subject.processor, items)
        assert shift.to_dict() == alone.to_dict()
    assert len(found.section().rows) == 1 + 1 + 2


@pytest.fixture
def measured(monkeypatch):
    """The models and words of the samples that were measured, not found."""
    seen, original = [], attention_shift.measure_shift

    def measure(model, processor, items, choices):
        seen.extend(
            (type(model).__name__, item.messages[0]["content"][0]["text"]) for item in items
        )
        return original(model, processor, items, choices)

    monkeypatch.setattr(attention_shift, "measure_shift", measure)
    return seen


def test_a_break_costs_the_sample_it_fell_into(
    chain, winged, make_runner, picture, measured, monkeypatch
):
    (llm, *_), (model, *_) = chain(1, "a"), winged(2, "b")
    items = [conversation(picture, letter) for letter in "abc"]
    measuring = attention_shift.measure_shift

    def broken(*arguments):
        if len(measured) == 4:
            raise KeyboardInterrupt
        return measuring(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(attention_shift, "measure_shift", broken)
        with pytest.raises(KeyboardInterrupt):
            measure_attention_shift(llm, model, items, make_runner())
    done = [("LlamaForCausalLM", letter) for letter in "abc"] + [("WingsForCausalLM", "a")]
    assert measured == done
    measured.clear()
    told = []
    found = measure_attention_shift(
        llm, model, items, make_runner(progress=lambda *what: told.append(what))
    )
    assert measured == [("WingsForCausalLM", letter) for letter in "bc"]
    assert told == [(f"attention: the {name}", n, 3) for name in ("LLM", "model") for n in range(4)]
    for subject, shift in ((llm, found.llm), (model, found.model)):
        alone = measure_shift(subject.model, subject.processor, items)
        assert shift.to_dict() == alone.to_dict() and shift.layers == alone.layers
        for name in attention_shift.COLUMNS:
            ours, theirs = (vars(one.masses)[name] for one in (shift, alone))
            assert (ours is None) == (theirs is None) and (ours is None or ours.equal(theirs))


def test_what_has_changed_is_measured_anew(chain, winged, make_runner, picture, measured):
    (llm, *_), (model, *_) = chain(1, "a"), winged(2, "b")
    items = [conversation(picture, letter) for letter in "ab"]
    measure_attention_shift(llm, model, items, make_runner())
    measured.clear()
    measure_attention_shift(
        llm, model, [*items, conversation(picture, "c"), items[0]], make_runner()
    )
    assert [letter for _, letter in measured] == ["c", "c"]
    measured.clear()
    measure_attention_shift(llm, model, items, make_runner(), ShiftOptions(sink="before"))
    assert len(measured) == 4
    measure_attention_shift(llm, winged(3, "b")[0], items, make_runner())
    assert len(measured) == 6
    Image.new("RGB", (28, 28), "blue").save(picture)
    measure_attention_shift(llm, model, items, make_runner())
    assert len(measured) == 10


def test_many_are_drawn_by_lot(chain, winged, make_runner, picture, monkeypatch):
    monkeypatch.setattr(attention_shift, "MAX_ITEMS", 2)
    items = [conversation(picture, letter) for letter in "abcde"]
    arguments = chain(1, "a")[0], winged(2, "b")[0], items
    found, again = (measure_attention_shift(*arguments, make_runner()) for _ in range(2))
    assert len(found.model.main.scores) == 2 and found.to_dict() == again.to_dict()


def test_what_cannot_be_measured_is_a_note(chain, winged, make_runner, picture, monkeypatch):
    def refuse(*_, **__):
        raise WingsError("its attention is of another kind.")

    monkeypatch.setattr(attention_shift, "measure_shift", refuse)
    data = EvalData([], [], [conversation(picture, "a")], [])
    found = evaluate(chain(1, "a")[0], winged(2, "b")[0], data, make_runner())
    assert "attention" not in found.measurements
    assert found.notes == ["The attention shift is skipped: its attention is of another kind."]
