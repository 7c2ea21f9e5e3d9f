"""Evaluation while training: its metrics, what they leave alone, the end they may bring."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from faults import killed_at
from forked import run_ranks
from safetensors.torch import load_file

from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor
from wings.train.data.collator import Collator
from wings.train.data.dataset import ConversationDataset
from wings.train.recipe import DataSource, EarlyStop, Evaluate, HeldOutSource, Recipe
from wings.train.recipe_yaml import read_yaml
from wings.train.run import train
from wings.train.run_folder import RunFolder


@pytest.fixture
def evaluate(data):
    """A function of changes: five texts and seven pictures, held out."""

    def make(every=2, stop=False):
        text = HeldOutSource(str(data / "text.jsonl"), limit=5, name="text")
        pictures = HeldOutSource(str(data / "pictures.json"), str(data), limit=7, name="pictures")
        return Evaluate([text, pictures], every, 0, 0, stop)

    return make


QUICK = {"language_model": 1e-2, "projector": 1e-2}


def weights(result):
    return {k: v.clone() for k, v in load_file(result.folder / "model.safetensors").items()}


def alone(recipe, source, folder):
    """The loss on a held-out set by its definition: record by record, over all logits."""
    model = WingsForCausalLM.from_pretrained(folder, dtype=torch.float32)
    processor = WingsProcessor.from_pretrained(recipe.start)
    total = tokens = 0
    for sample in ConversationDataset([source], processor, recipe.max_length):
        batch = Collator(0)([sample])
        labels = batch.pop("labels")[:, 1:].flatten()
        with torch.no_grad():
            logits = model(**batch).logits[0, :-1].double()
        total += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        tokens += int((labels != -100).sum())
    return total / tokens


@pytest.mark.parametrize("size", [None, 1])
def test_losses_are_means_over_all_trained_tokens(make_recipe, evaluate, size):
    recipe = make_recipe("align", evaluate=evaluate(3), device_batch_size=size)
    result = train(recipe)
    assert [entry["step"] for entry in result.evaluations] == [0, 3, 4]
    for n, folder in ((0, recipe.start), (-1, result.folder)):
        for source in recipe.evaluate.data:
            found = result.evaluations[n][f"eval/{source.name}/loss"]
            assert found == pytest.approx(alone(recipe, source, folder), rel=1e-5)
    for entry in result.evaluations:
        for name in ("text", "pictures"):
            rise = entry[f"eval/{name}/loss"] - result.evaluations[0][f"eval/{name}/loss"]
            assert entry[f"eval/{name}/rise"] == rise
    assert json.loads((result.folder / "result.json").read_text())["evaluations"] == (
        result.evaluations
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_the_training_is_the_same_with_and_without(
    make_recipe, make_model, evaluate, tmp_path, workers, children_end
):
    """To the last bit, with dropout, which draws random numbers in every step."""
    ends = []
    for watched in (False, True):
        torch.manual_seed(0)
        model, processor = make_model()
        model.config.text_config.attention_dropout = 0.2
        for block in model.model.language_model.layers:
            block.self_attn.attention_dropout = 0.2
        recipe = make_recipe(
            "instruct", start=None, steps=6, workers=workers, output=str(tmp_path / f"{watched}"),
            evaluate=evaluate() if watched else Evaluate(text_after_image=0), learning_rates=QUICK,
        )  # fmt: skip
        result = train(recipe, model, processor)
        assert len(result.evaluations) == (4 if watched else 0)
        ends.append((result.losses, weights(result)))
    assert ends[0][0] == ends[1][0]
    assert all(torch.equal(ends[0][1][name], ends[1][1][name]) for name in ends[0][1])


def test_two_processes_evaluate_as_one(make_recipe, evaluate, data, tmp_path):
    """Sets of five and seven, three records a forward: one rank has less to do."""
    held_out = replace(evaluate(), text_after_image=5, answers=1)
    rates = {"projector": 1e-2, "text_learners": 1e-2}
    settings = {"evaluate": held_out, "batch_size": 6, "freeze_llm": True, "learning_rates": rates,
                "trackers": None}  # fmt: skip
    one = train(make_recipe("instruct", output=str(tmp_path / "one"), **settings))
    recipe = make_recipe("instruct", output=str(tmp_path / "two"), **settings)
    (tmp_path / "r.yaml").write_text(recipe.to_yaml())
    code, printed, errors = run_ranks(2, "-m", "wings.train", "r.yaml", cwd=tmp_path)
    assert code == 0, errors[-3000:]
    assert printed.count("held out: text") == 3
    two = json.loads((tmp_path / "two" / "result.json").read_text())
    assert len(list((tmp_path / "two" / "tensorboard").iterdir())) == 1
    for mine, theirs in zip(one.evaluations, two["evaluations"], strict=True):
        assert theirs == pytest.approx(mine, rel=1e-4, abs=1e-5)
    assert one.evaluations[-1]["eval/pictures/rise"] < -1e-2
    assert one.evaluations[-1]["eval/text_after_image/kl"] > 1e-4
    answers = [(tmp_path / name / "answers.jsonl").read_text() for name in ("one", "two")]
    assert answers[0] == answers[1] and len(answers[0].splitlines()) == 9
    for mine, theirs in zip(one.history, two["history"], strict=True):
        speed = {"tokens_per_second", "memory_gib"}
        # Each rank pads its own part of a batch.
        assert theirs["padding"] <= mine["padding"]
        same = mine.keys() - speed - {"padding"}
        assert same > {"gate/image/0", "gate/text/1", "image_tokens"}
        assert {name: theirs[name] for name in same} == pytest.approx(
            {name: mine[name] for name in same}, rel=1e-3, abs=1e-5
        )


@pytest.fixture
def forgetful(make_recipe, data, tmp_path):
    """A function of changes: a run that learns other letters, so that the loss on text rises."""
    turns = [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "ZZZZZZ"}]
    (tmp_path / "odd.jsonl").write_text(json.dumps({"conversations": turns}) + "\n")

    def make(**changes):
        settings = {
            "steps": 40, "warmup_ratio": 0.0, "learning_rates": {"language_model": 3e-2},
            "log_every": 4, "data": [DataSource(str(tmp_path / "odd.jsonl"))],
            "evaluate": Evaluate(
                [HeldOutSource(str(data / "text.jsonl"), name="text")], 3, 0, 0,
                EarlyStop("text", 0.05),
            ),
        }  # fmt: skip
        return make_recipe("instruct", **{**settings, **changes})

    return make


@pytest.mark.parametrize("save_every", [None, 3, 2])
def test_a_run_that_forgets_too_much_ends(forgetful, capsys, save_every):
    recipe = forgetful(save_every=save_every)
    result = train(recipe)
    assert result.steps < 40 and result.steps % 3 == 0
    assert [entry["step"] for entry in result.evaluations] == [*range(0, result.steps + 1, 3)]
    rises = [entry["eval/text/rise"] for entry in result.evaluations]
    assert rises[-1] > 0.05 and all(rise <= 0.05 for rise in rises[:-1])
    # Its last step is logged and saved as any run's.
    assert result.history[-1]["step"] == result.steps
    assert "the loss on text rose by" in result.stopped and "0.05" in result.stopped
    assert result.stopped in " ".join(capsys.readouterr().out.split())
    folder = RunFolder(recipe.output)
    assert folder.finished and train(recipe) == result
    if save_every is None:
        return
    assert folder.last_checkpoint().name == f"checkpoint-{result.steps}"
    # Killed while the final model was written: nothing more is trained.
    expected = weights(result)
    (folder.path / "result.json").unlink()
    (folder.path / "model.safetensors").write_bytes(b"half")
    again = train(recipe)
    assert {**vars(again), "seconds": 0} == {**vars(result), "seconds": 0}
    assert all(torch.equal(expected[name], w) for name, w in weights(again).items())


def test_a_loss_that_falls_ends_nothing(make_recipe, evaluate):
    result = train(
        make_recipe("instruct", learning_rates=QUICK, evaluate=evaluate(2, EarlyStop("text", 1e-6)))
    )
    assert result.steps == 4 and result.stopped is None


@pytest.mark.parametrize("step", [1, 4, 5])
def test_a_killed_run_goes_on_with_what_it_was_at_the_start(make_recipe, evaluate, tmp_path, step):
    settings = {"steps": 6, "save_every": 3, "evaluate": evaluate(2), "learning_rates": QUICK}
    whole = train(make_recipe("instruct", output=str(tmp_path / "whole"), **settings))
    recipe = make_recipe("instruct", **settings)

    with killed_at(step):
        train(recipe)
    result = train(recipe)
    assert result.evaluations == whole.evaluations and result.losses == whole.losses


def test_held_out_records_that_cannot_be_used(make_recipe, data, tmp_path, children_end):
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    (folder / "0-1.png").write_text("not a picture")
    source = HeldOutSource(str(folder / "pictures.json"), str(folder), limit=4, name="pictures")
    alone_of_it = Evaluate([source], text_after_image=0, answers=0)
    stops = {"evaluate": alone_of_it, "output": str(tmp_path / "stopped"), "workers": 1}
    with pytest.raises(WingsError, match=r"^[^\n]*record 1 \(id '0-1'\)[^\n]*0-1\.png[^\n]*$"):
        train(make_recipe("align", **stops))
    recipe = make_recipe("align", evaluate=alone_of_it, on_bad_record="skip")
    result = train(recipe)
    assert ["0-1.png" in sentence for sentence in result.skipped] == [True]
    records = json.loads((folder / "pictures.json").read_text())
    del records[1]
    (folder / "good.json").write_text(json.dumps(records[:3]))
    good = HeldOutSource(str(folder / "good.json"), str(folder), name="good")
    found = result.evaluations[0]["eval/pictures/loss"]
    assert found == pytest.approx(alone(recipe, good, recipe.start), rel=1e-5)
    for name in ("0-0.png", "0-2.png", "0-3.png"):
        (folder / name).unlink()
    with pytest.raises(WingsError, match="4 records in a row cannot be used"):
        train(make_recipe("align", evaluate=alone_of_it, on_bad_record="skip", seed=1,
                          output=str(tmp_path / "none")))  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"stop": {"name": "a", "rise": 1}, "data": []}, "known: text_after_image"),
        ({"stop": {"name": "a", "rise": 1}, "data": [], "text_after_image": 0}, "known: none"),
        ({"data": [{"path": "a", "name": "text_after_image"}]}, "choose another name"),
        ({"text_after_image": -1}, "evaluate.text_after_image: -1 must not be negative"),
        ({"answers": 1001}, "evaluate.answers: 1001 is too large"),
        ({"stop": "no"}, "evaluate.stop: 'no' is not a mapping with name, rise or true or false"),
        ({"every": 0}, "evaluate.every: 0 must be larger than 0"),
        (
            {"stop": {"name": "txt", "rise": 0.1}},
            r"evaluate.stop.name: .* 'txt' \(did you mean 'text'",
        ),
        ({"stop": {"name": "text", "rise": 0}}, "evaluate.stop.rise: 0.0 must be larger"),
        ({"stop": {"name": "text"}}, "evaluate.stop: the key 'rise' is missing"),
        ({"data": [{"path": "a.jsonl"}]}, "evaluate.data.0: the key 'name' is missing"),
        ({"data": [{"path": "a.jsonl", "name": "a/b"}]}, "evaluate.data.0.name: 'a/b' may only"),
        ({"data": [{"path": "a", "name": "a", "weight": 2}]}, "evaluate.data.0.weight"),
        ({"data": [{"path": "a", "name": "a", "limit": 0}]}, "evaluate.data.0.limit"),
        ({"data": [{"path": "a", "name": "a", "limit": 10**15 + 1}]}, "evaluate.data.0.limit"),
        ({"data": [{"path": "a", "name": "a", "shuffle_buffer": 0}]}, "data.0.shuffle_buffer"),
        ({"evry": 3}, "evaluate.evry: no such key"),
    ],
)
def test_what_a_recipe_may_not_say(changes, sentence):
    settings = {"data": [{"path": "a.jsonl", "name": "text"}], **changes}
    values = {"stage": "align", "output": "o", "start": "s", "data": [{"path": "b.jsonl"}]}
    with pytest.raises(WingsError, match=sentence):
        Recipe.from_dict({**values, "evaluate": settings})


def test_a_recipe_is_read_back_as_it_was_written(make_recipe, evaluate):
    recipe = make_recipe("align", evaluate=evaluate(5, EarlyStop("pictures", 0.5)))
    assert Recipe.from_dict(read_yaml(recipe.to_yaml(), "r.yaml")) == recipe
