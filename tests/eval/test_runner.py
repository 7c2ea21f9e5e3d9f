"""Answers are kept batch by batch: a break or a change costs its own part and no more."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from wings.errors import WingsError
from wings.eval import runner as runner_module
from wings.eval.items import Item
from wings.eval.result_cache import ResultCache
from wings.eval.scoring.score import score

LETTERS = "abcdefgh"
WORDS = ["<pad>", "<end>", "<user>", "<bot>", *"abcdefghijkl"]  # of the chains


def asked(text, picture=None):
    content = [{"type": "image", "image": picture}] if picture else []
    content.append({"type": "text", "text": text})
    return Item("all", ({"role": "user", "content": content if picture else text},), "a")


@pytest.fixture
def shown(monkeypatch):
    """The texts of the items that a model really was shown, batch by batch."""
    batches = []
    original = runner_module.answer_items

    def answer_items(model, processor, items, **settings):
        batches.append([item.messages[-1]["content"] for item in items])
        return original(model, processor, items, **settings)

    monkeypatch.setattr(runner_module, "answer_items", answer_items)
    return batches


def test_known_models_give_known_answers(chain, winged, make_runner, picture):
    runner = make_runner(batch_size=3)
    items = [asked(text) for text in LETTERS]
    assert runner.answers(chain(1, "a")[0], items, "") == ["a"] * 8
    pictured = [asked(text, picture) for text in LETTERS]
    assert runner.answers(winged(2, "c")[0], pictured, "") == ["c"] * 8


def test_a_break_costs_the_batch_it_fell_into(chain, make_runner, shown, monkeypatch):
    llm, items = chain(1, "a")[0], [asked(text) for text in LETTERS]
    breaking = runner_module.answer_items

    def broken(model, processor, batch, **settings):
        if len(shown) == 2:
            raise KeyboardInterrupt
        return breaking(model, processor, batch, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(runner_module, "answer_items", broken)
        with pytest.raises(KeyboardInterrupt):
            make_runner(batch_size=3).answers(llm, items, "")
    assert shown == [["a", "b", "c"], ["d", "e", "f"]]
    shown.clear()
    progress = []
    runner = make_runner(
        batch_size=3, progress=lambda what, done, total: progress.append((done, total))
    )
    assert runner.answers(llm, items, "") == ["a"] * 8
    assert shown == [["g", "h"]] and progress == [(0, 8), (3, 8), (6, 8), (8, 8)]
    shown.clear()
    assert make_runner(batch_size=2).answers(llm, items, "") == ["a"] * 8 and not shown


def test_what_has_changed_is_answered_anew(chain, winged, make_runner, shown, picture):
    (llm, _), items = chain(1, "a"), [asked(text) for text in LETTERS]
    make_runner().answers(llm, items, "")
    shown.clear()
    items[3] = asked("k")
    make_runner().answers(llm, items, "")
    assert shown == [["k"]]
    renamed = replace(llm, name="elsewhere")
    make_runner().answers(renamed, items, "")
    # The kind, the cluster and the reference do not reach a model.
    make_runner().answers(llm, [replace(items[0], kind="x", cluster="y", answer="z")], "")
    assert len(shown) == 1
    make_runner(max_new_tokens=1).answers(llm, items, "")
    assert len(shown[-1]) == 8
    assert make_runner().answers(chain(2, "b")[0], items, "") == ["b"] * 8

    model, _ = winged(1, "a")
    make_runner().answers(model, [asked("a", picture)], "")
    Image.new("RGB", (28, 28), "blue").save(picture)
    count = len(shown)
    make_runner().answers(model, [asked("a", picture)], "")
    assert len(shown) == count + 1


def test_fingerprints_tell_models_apart(chain, winged):
    prints = [chain(1, "a")[0], chain(2, "a")[0], winged(1, "a")[0], winged(2, "a")[0]]
    assert len({subject.fingerprint for subject in prints}) == 4
    assert chain(1, "a")[0].fingerprint == prints[0].fingerprint
    from wings.eval.fingerprint import model_fingerprint

    model, tokenizer = prints[0].model, prints[0].tokenizer
    with torch.no_grad():
        model.lm_head.weight[3, 3] += 1e-3
    changed = model_fingerprint(model, tokenizer)
    tokenizer.chat_template += " "
    assert len({prints[0].fingerprint, changed, model_fingerprint(model, tokenizer)}) == 3
    assert model_fingerprint(model.bfloat16(), tokenizer) != changed


def test_questions_that_read_the_same_are_answered_once(chain, make_runner, shown):
    items = [asked(text) for text in "abab"]
    assert make_runner().answers(chain(1, "a")[0], items, "") == ["a"] * 4
    assert shown == [["a", "b"]]


def test_a_line_cut_off_is_measured_again_and_the_rest_is_found(make_runner, tmp_path):
    cache = make_runner().cache
    cache.add({"one": "a", "two": [1.5, float(2**60)]})
    (tmp_path / "cache" / "rank-1.jsonl").write_text('{"key": "three", "result": "\u00e9"}\n{"k')
    cache.path.write_bytes(cache.path.read_bytes() + b'{"key": "four", "resu')
    again = make_runner().cache
    assert again["two"] == [1.5, float(2**60)] and again["three"] == "\u00e9"
    assert "four" not in again and "k" not in again
    again.add({"four": "b"})
    again.add({"five": "c"})
    last = ResultCache(tmp_path / "cache", make_runner().processes)
    assert sorted(last.results) == ["five", "four", "one", "three", "two"]
    lines = cache.path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["key"] for line in lines if line.endswith("}")][-1] == "five"


def test_a_picture_that_is_not_there_is_a_sentence(winged, make_runner):
    with pytest.raises(WingsError, match=r"nowhere\.png"):
        make_runner().answers(winged(1, "a")[0], [asked("a", "nowhere.png")], "")


def test_a_template_that_refuses_a_conversation_is_a_sentence(chain, make_runner):
    llm = chain(1, "a")[0]
    llm.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(WingsError, match="roles must alternate"):
        make_runner().answers(llm, [asked("a")], "")


def test_likeliest_choices_are_found_among_spoken_answers(chain, winged, make_runner, picture):
    runner = make_runner(batch_size=4)
    ranked = replace(asked("a"), scoring="likelihood", choices=("b", "a"))
    others = replace(ranked, choices=("d", "c"), answer="c")
    tied = replace(ranked, choices=("b", "b"), answer="b")
    llm, table = chain(1, "a")
    likelihoods = table[WORDS.index("<bot>")].log_softmax(-1)
    best = max("cd", key=lambda letter: likelihoods[WORDS.index(letter)])
    found = runner.answers(llm, [asked("b"), ranked, asked("c"), others], "")
    assert found == ["a", "a", "a", best]
    assert [score(item, said) for item, said in ((ranked, "a"), (ranked, "b"))] == [1.0, 0.0]
    assert runner.answers(llm, [tied], "") == [""] and score(tied, "") == 0.0
    pictured = replace(asked("a", picture), scoring="likelihood", choices=("b", "c"), answer="c")
    assert runner.answers(winged(2, "c")[0], [pictured], "") == ["c"]
    # ResultCache under its choices: others are another question.
    assert make_runner(batch_size=4).answers(llm, [ranked, others], "") == ["a", best]
