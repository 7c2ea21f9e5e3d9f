"""lmms-eval's requests, as it makes them, answered by the code that answers items."""

import pytest
from PIL import Image

pytest.importorskip("lmms_eval.api.model")

from lmms_eval.api.instance import Instance
from lmms_eval.models.registry_v2 import ModelRegistryV2

from wings.errors import WingsError
from wings.eval.generate import answer_items
from wings.eval.harness.lmms import MANIFEST, WingsLmms, cut
from wings.eval.items import Item
from wings.eval.loglikelihood import choice_likelihoods

DOCS = [
    {"question": "What?", "image": Image.new("RGB", (30, 28), "red"), "answer": "red"},
    {"question": "And what is this?", "image": Image.new("RGB", (28, 28), "blue"), "answer": "b"},
]


def visual(doc):
    return [doc["image"].convert("RGB")]


def request(kind, n, second, see=visual):
    metadata = {"task": "tiny", "doc_id": n, "repeats": 1}
    return Instance(kind, (DOCS[n]["question"], second, see, n, "tiny", "test"), n, metadata)


def item(n, choices=()):
    parts = [
        {"type": "image", "image": DOCS[n]["image"]},
        {"type": "text", "text": DOCS[n]["question"]},
    ]
    return Item("all", ({"role": "user", "content": parts},), "", choices=choices)


@pytest.fixture(scope="module")
def ours(unguarded):
    model = WingsLmms(str(unguarded), batch_size="2", device="cpu", max_batch_size=None)
    model.task_dict = {"tiny": {"test": DOCS}}
    return model


def test_it_is_found_by_its_manifest():
    registry = ModelRegistryV2()
    registry.register_manifest(MANIFEST)
    assert registry.get_model_class("wings") is WingsLmms


def test_answers_are_those_of_items(ours):
    requests = [
        request("generate_until", 0, {"max_new_tokens": 5, "until": ["\n\n"]}),
        request("generate_until", 1, {"max_new_tokens": 9}),
    ]
    alone = [
        answer_items(ours.model, ours.processor, [item(n)], max_new_tokens=limit)[0]
        for n, limit in ((0, 5), (1, 9))
    ]
    assert ours.generate_until(requests) == alone and len(set(alone)) == 2
    assert cut("a. b\n", [".", "\n"]) == "a" and cut("a", None) == "a" and cut("ab", "b") == "a"
    with pytest.raises(WingsError, match="tiny asks for sampling"):
        ours.generate_until([request("generate_until", 0, {"do_sample": True})])


def test_likelihoods_are_those_of_items(ours):
    requests = [
        request("loglikelihood", 0, " red"),
        request("loglikelihood", 1, lambda doc: doc["answer"]),
    ]
    items = [item(0, (" red",)), item(1, ("b",))]
    expected = choice_likelihoods(ours.model, ours.processor, items)
    found = ours.loglikelihood(requests)
    assert [one for one, _ in found] == pytest.approx([of[0].total for of in expected], abs=1e-3)
    assert [greedy for _, greedy in found] == [of[0].greedy for of in expected]
    text = ours.loglikelihood([request("loglikelihood", 0, " red", None)])
    assert text[0] != found[0]


def test_an_unknown_option_is_named(unguarded):
    with pytest.raises(WingsError, match="takes no dtyp"):
        WingsLmms(str(unguarded), dtyp="float32")
