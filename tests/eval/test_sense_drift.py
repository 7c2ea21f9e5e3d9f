"""Drift after an image: against distributions that are known, and beside its floor."""

import math
from dataclasses import replace

import pytest
import torch
from PIL import Image

from wings.errors import WingsError
from wings.eval import sense_drift
from wings.eval.fingerprint import model_fingerprint
from wings.eval.items import Item
from wings.eval.models import extract_llm
from wings.eval.sense_drift import AnswerDrift, SenseDrift, format_nats, measure_sense_drift


def conversation(picture, question="h", answer="a b", kind="k", **more):
    seen = [{"type": "image", "image": picture}, {"type": "text", "text": "f g"}]
    turns = (("user", seen), ("assistant", "c"), ("user", question))
    return Item(kind, tuple({"role": r, "content": c} for r, c in turns), answer, **more)


def with_attention(model):
    """The same model with other weights of its decoder, so that context matters."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in model.model.named_parameters():
            if "language_model" in name and "wings" not in name and "embed" not in name:
                weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
            elif "embed_tokens" in name:
                weight.div_(300)
    return replace(model, fingerprint=model_fingerprint(model.model, model.processor))


def log_probs(model, text):
    """[T, V] float64 of a text without pictures."""
    ids = torch.tensor([model.tokenizer(text).input_ids])
    return model.model(input_ids=ids).logits[0, :, :16].double().log_softmax(-1)


def kl(p, q):
    return (p.exp() * (p - q)).sum().item()


def test_chains_look_at_nothing_before_so_the_floor_is_zero(chain, winged, make_runner, picture):
    (llm, before), (model, after) = chain(1, "a"), winged(2, "b")
    (found,) = measure_sense_drift(llm, model, [conversation(picture)], make_runner()).answers
    p, q = before.double().log_softmax(-1), after.double().log_softmax(-1)
    # <bot> a b <end>: three tokens of the answer, each after the one before it.
    expected = sum(kl(p[token], q[token]) for token in (3, 4, 5))
    assert found.tokens == 3 and found.words == pytest.approx(0, abs=1e-6)
    assert [found.alone, found.after] == pytest.approx([expected] * 2, rel=1e-4)


def test_the_floor_is_the_llm_after_the_same_exchange_in_words(winged, make_runner, picture):
    model = with_attention(winged(1, "a")[0])
    llm = extract_llm(model)
    found = measure_sense_drift(llm, model, [conversation(picture)], make_runner())
    (answer,) = found.answers
    alone = "<user> h <end> <bot> a b <end>"
    words = f"<user> f g <end> <bot> c <end> {alone}"
    # The last token predicts nothing; the three before it predict the answer.
    expected, floor = (log_probs(llm, text)[-4:-1] for text in (alone, words))
    assert kl(expected, floor) > 1e-3
    assert answer.words == pytest.approx(kl(expected, floor), rel=1e-4)
    # The learners are fresh, so without an image the model is the LLM.
    assert answer.alone == pytest.approx(0, abs=1e-6)
    batch = model.processor.apply_chat_template(
        [[*conversation(picture).messages, {"role": "assistant", "content": "a b"}]],
        tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=False,
    )  # fmt: skip
    seen = model.model(**batch).logits[0, -4:-1, :16].double().log_softmax(-1)
    assert answer.after == pytest.approx(kl(expected, seen), rel=1e-4)
    assert answer.after != pytest.approx(answer.words, rel=1e-3)


def test_kinds_clusters_and_tokens_are_weighed():
    answers = [AnswerDrift("x", 0, 2, 0.0, 0.2, 0.6), AnswerDrift("x", 0, 6, 0.0, 0.6, 0.6),
               AnswerDrift("y", 1, 2, 0.0, 0.0, 1.0)]  # fmt: skip
    drift = SenseDrift(answers)
    assert drift.kinds == ["all", "x", "y"]
    assert drift.kl("words", "x").to_dict() == {"value": 0.1, "interval": None}
    assert drift.kl("after", "all").value == pytest.approx(0.22)
    assert drift.above_floor("all").value == pytest.approx(0.14)
    figures = drift.to_dict()["kinds"]
    assert figures["all"]["clusters"] == 2 and figures["x"]["tokens"] == 8
    low, high = figures["all"]["image"]["interval"]
    assert (low, high) == pytest.approx((0.15, 0.5))
    rows = drift.section().rows
    assert rows[2] == ("x", "0.000", "0.100", "0.150", "0.050")
    assert rows[1][3] == "0.220 (0.15, 0.50)" == format_nats(drift.kl("after", "all"))
    assert "3 answers in 2 clusters" in drift.section().sentence


def test_only_what_has_changed_is_measured_again(chain, winged, make_runner, picture, monkeypatch):
    measured = []
    original = sense_drift.answer_sums
    monkeypatch.setattr(
        sense_drift, "answer_sums",
        lambda llm, model, item: measured.append(item.answer) or original(llm, model, item),
    )  # fmt: skip
    (llm, _), (model, _) = chain(1, "a"), winged(2, "b")
    items = [conversation(picture), conversation(picture, answer="c"), conversation(picture)]
    first = measure_sense_drift(llm, model, items, make_runner())
    assert measured == ["a b", "c"] and first.answers[0] == first.answers[2]
    named = [replace(item, kind="other", cluster=str(n)) for n, item in enumerate(items)]
    again = measure_sense_drift(llm, model, named, make_runner())
    assert len(measured) == 2 and [one.cluster for one in again.answers] == [0, 1, 2]
    measure_sense_drift(llm, model, [replace(items[0], answer="d")], make_runner())
    measure_sense_drift(chain(5, "a")[0], model, items[:1], make_runner())
    Image.new("RGB", (28, 28), "blue").save(picture)
    measure_sense_drift(llm, model, items[:1], make_runner())
    assert measured[2:] == ["d", "a b", "a b"]


def test_what_cannot_be_measured_is_a_sentence(chain, winged, make_runner, picture):
    (llm, _), (model, _) = chain(1, "a"), winged(2, "b")
    model.tokenizer.chat_template = model.tokenizer.chat_template.replace("' <end> '", "' e '")
    model.tokenizer.chat_template = model.tokenizer.chat_template.replace(" <end> ", " e <end> ")
    with pytest.raises(WingsError, match="tokenized differently by winged 2; use one chat"):
        measure_sense_drift(llm, model, [conversation(picture)], make_runner())
    broken = winged(4, "b")[0]
    with torch.no_grad():
        broken.model.lm_head.weight.fill_(math.nan)
    with pytest.raises(WingsError, match="'a b' the logits of chain 1 or winged 4 are not finite"):
        measure_sense_drift(llm, broken, [conversation(picture)], make_runner())
