"""The attention shift within a report: that of both models, or a sentence why there is none."""

from wings.errors import WingsError
from wings.eval.attention import looks
from wings.eval.attention.looks import measure_looks
from wings.eval.attention.shift import measure_shift
from wings.eval.data import Data
from wings.eval.evaluation import evaluate
from wings.eval.items import Item


def conversation(picture, letter):
    parts = [{"type": "text", "text": letter}, {"type": "image", "image": picture}]
    return Item("k", ({"role": "user", "content": [*parts, {"type": "text", "text": "b"}]},), "a")


def test_it_is_the_shift_of_each_model(chain, winged, make_work, picture):
    (llm, *_), (model, *_) = chain(1, "a"), winged(2, "b")
    items = [conversation(picture, letter) for letter in "abc"]
    found = measure_looks(llm, model, items, make_work())
    for subject, shift in ((llm, found.llm), (model, found.model)):
        alone = measure_shift(subject.model, subject.processor, items)
        assert shift.to_dict() == alone.to_dict()
    assert len(found.section().rows) == 1 + 1 + 2


def test_many_are_drawn_by_lot(chain, winged, make_work, picture, monkeypatch):
    monkeypatch.setattr(looks, "MOST", 2)
    items = [conversation(picture, letter) for letter in "abcde"]
    arguments = chain(1, "a")[0], winged(2, "b")[0], items
    found, again = (measure_looks(*arguments, make_work()) for _ in range(2))
    assert len(found.model.main.scores) == 2 and found.to_dict() == again.to_dict()


def test_what_cannot_be_measured_is_a_note(chain, winged, make_work, picture, monkeypatch):
    def refuse(*_, **__):
        raise WingsError("its attention is of another kind.")

    monkeypatch.setattr(looks, "measure_shift", refuse)
    data = Data([], [], [conversation(picture, "a")], [])
    found = evaluate(chain(1, "a")[0], winged(2, "b")[0], data, make_work())
    assert "attention" not in found.measurements
    assert found.notes == ["attention shift is left out: its attention is of another kind"]
