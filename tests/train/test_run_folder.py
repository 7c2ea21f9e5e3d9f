"""A run's folder: which recipes may use it, more steps for a finished run, totals of resumes."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from faults import killed_at
from safetensors.torch import load_file

from wings.errors import WingsError
from wings.train import run
from wings.train.manifest import Manifest
from wings.train.recipe import Evaluate, HeldOutSource, Recipe
from wings.train.recipe_difference import changed_keys, describe_changes
from wings.train.result import TrainResult
from wings.train.run import train
from wings.train.run_folder import RunFolder

RATES = {"projector": 1e-2, "image_learners": 1e-2}


def weights(folder):
    return {k: t.clone() for k, t in load_file(Path(folder) / "model.safetensors").items()}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def shorter(tmp_path_factory):
    """A place for a finished run of 4 steps, made by the first test."""
    return tmp_path_factory.mktemp("shorter")


@pytest.fixture
def finished(shorter, make_recipe, tmp_path):
    """A recipe whose run of 4 steps is in its folder, with checkpoints of the steps 3 and 4."""
    recipe = make_recipe("align", save_every=1, learning_rates=RATES)
    if not (shorter / "run").exists():
        train(recipe)
        shutil.move(tmp_path / "run", shorter / "run")
    shutil.copytree(shorter / "run", tmp_path / "run")
    return recipe


def longer(recipe, **changes):
    return Recipe.from_dict({**recipe.to_dict(), "steps": 7, **changes})


def test_a_finished_run_goes_on_with_more_steps(finished, make_recipe, tmp_path, capsys):
    """Its next rates and records are those of a run of so many steps."""
    before = TrainResult.read(RunFolder(finished.output))
    result = train(longer(finished))
    printed = capsys.readouterr().out
    assert "the run of 4 steps goes on from step 4 to 7" in printed
    assert "learning rates so far were those of 4 steps" in printed and "align 7/7" in printed
    assert result.steps == 7 and result.losses[:4] == before.losses
    assert result.extended == [{"step": 4, "steps": 4}] and result.seconds > before.seconds
    assert "steps: 7" in Path(finished.output, "recipe.yaml").read_text()
    assert TrainResult.read(RunFolder(finished.output)).extended == result.extended
    # One step of warmup, then the cosine; a logged rate is that of its step.
    cosine = [1e-2 * 0.5 * (1 + math.cos(math.pi * n / 6)) for n in range(6)]
    assert [entry["rate/projector"] for entry in result.history[4:]] == pytest.approx(cosine[3:])
    # The records of every step are those of a run that had 7 steps from the start.
    whole = train(make_recipe("align", steps=7, output=str(tmp_path / "w"), learning_rates=RATES))
    assert [entry["image_tokens"] for entry in result.history] == [
        entry["image_tokens"] for entry in whole.history
    ]
    with pytest.raises(WingsError, match=r"a run of 7 steps, and this recipe has 4; set more"):
        train(finished)
    assert train(longer(finished)) == result


@pytest.mark.parametrize("step", [5, 6])
def test_a_longer_run_is_resumed_to_the_same_weights(finished, tmp_path, step):
    shutil.copytree(finished.output, tmp_path / "other")
    whole = train(longer(finished, output=str(tmp_path / "other")))
    with killed_at(step):
        train(longer(finished))
    result = train(longer(finished))
    assert result.losses == whole.losses and result.extended == whole.extended
    assert same(weights(result.folder), weights(whole.folder))


def test_a_kill_between_the_two_files_of_a_claim_returns_no_old_result(finished, monkeypatch):
    """The result goes first: a folder never has the longer recipe with the shorter result."""

    class Killed(Exception):
        pass

    def kill(self, name, text):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(RunFolder, "write", kill)
        train(longer(finished))
    assert not RunFolder(finished.output).has_result
    assert train(longer(finished)).steps == 7


def test_without_a_checkpoint_the_sentence_says_how_to_train_further(finished):
    folder = RunFolder(finished.output)
    for path in folder.checkpoints():
        folder.owned.discard(path.name)
    with pytest.raises(WingsError) as error:
        train(longer(finished))
    assert str(error.value).endswith(
        f"contains a finished run of 4 steps without a checkpoint to go on from; to train its model"
        f" further, set start={finished.output}, model=null, steps=3 and another output."
    )
    # And it does.
    further = longer(finished, start=finished.output, output=f"{finished.output}-2", steps=3)
    assert train(further).steps == 3


def test_a_run_that_died_without_a_checkpoint_leaves_the_folder_free(make_recipe, checkpoint):
    first = make_recipe("instruct", freeze_llm=True)
    with killed_at(1):
        train(first)
    # As a kill leaves it, which nobody could clean up after; with half a model.
    folder = RunFolder(first.output)
    with folder.owned.locked():
        folder.claim(first, {})
        folder.write("tokenizer.json", "half")
    result = train(make_recipe("align"))
    assert result.steps == 4 and "stage: align" in (folder.path / "recipe.yaml").read_text()
    assert (folder.path / "tokenizer.json").read_text() != "half"
    with pytest.raises(WingsError, match=r"another run, with stage 'align' \(now 'instruct'\)"):
        train(first)


def test_a_run_that_fails_before_its_first_step_leaves_nothing(make_recipe, monkeypatch, tmp_path):
    monkeypatch.setattr(run, "load_model", lambda recipe: 1 / 0)
    recipe = make_recipe("align")
    with pytest.raises(ZeroDivisionError):
        train(recipe)
    assert not Path(recipe.output).exists()
    # A folder that was there stays.
    Path(recipe.output).mkdir()
    with pytest.raises(ZeroDivisionError):
        train(recipe)
    assert list(Path(recipe.output).iterdir()) == []


def test_resumes_are_said_and_totals_count_all_of_them(make_recipe, data, capsys):
    lines = (data / "text.jsonl").read_text().splitlines()
    held_out = Path(data / "held_out.jsonl")
    held_out.write_text("\n".join([*lines[:2], '{"conversations": []}']))
    evaluate = Evaluate([HeldOutSource(str(held_out), name="text")], 3, 0, 0, False)
    recipe = make_recipe("align", save_every=2, steps=6, evaluate=evaluate, on_bad_record="skip")
    with killed_at(5):
        train(recipe)
    folder = RunFolder(recipe.output)
    last = folder.last_checkpoint()
    state = json.loads((last / "resume_state.json").read_text())
    assert state["seconds"] > 0 and state["extended"] == []
    state["seconds"] = 1000.0
    (last / "resume_state.json").write_text(json.dumps(state))
    (last / "manifest.json").write_text(Manifest.of(last).to_json())
    capsys.readouterr()
    result = train(recipe)
    assert f"resuming from step 4 of 6: {last}" in capsys.readouterr().out
    assert 1000 < result.seconds < 1100
    assert len(result.skipped) == 1 and len(result.history) == 6


def test_only_changed_keys_are_named_with_both_values():
    values = {
        "stage": "align", "output": "o", "start": "s", "seed": 0,
        "data": [{"path": "a.jsonl"}, {"path": "b.jsonl"}],
        "evaluate": {"data": [{"path": "c.jsonl", "name": "text"}], "every": 5},
    }  # fmt: skip
    old = Recipe.from_dict(values)
    changes = {
        "seed 0 (now 1)": {"seed": 1},
        "data.1.path '/": {"data": [values["data"][0], {"path": "x.jsonl"}]},
        "wings.rank not given (now 8)": {"wings": {"rank": 8}},
        "evaluate.every 5 (now 6)": {"evaluate": {**values["evaluate"], "every": 6}},
        "lora not given (now {": {"lora": {"rank": 2, "stages": "both"}},
    }
    for words, change in changes.items():
        difference = Recipe.from_dict({**values, **change}).difference(old)
        assert difference.startswith(words) and len(difference) < 200
    assert Recipe.from_dict({**values, "steps": 9}).difference(old, ("steps",)) is None
    many = {str(number): "x" * 1000 for number in range(20)}
    words = describe_changes(list(changed_keys({}, many)))
    assert words.endswith("and 15 more") and len(words) < 400
