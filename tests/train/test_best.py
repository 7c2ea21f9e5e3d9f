"""The best evaluation: its checkpoint stays, its weights may be the result, also after a kill."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from faults import calls_of_runs, killed_at
from forked import in_a_child, run_ranks
from safetensors.torch import load_file

from wings.errors import WingsError
from wings.train.best import BestEvaluation, validate_best_set
from wings.train.recipe import DataSource, Evaluate, HeldOutSource, Recipe
from wings.train.result import TrainResult
from wings.train.run import train
from wings.train.run_folder import RunFolder

FIGURE = "eval/text/loss"


def weights(folder):
    return {k: t.clone() for k, t in load_file(Path(folder) / "model.safetensors").items()}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def names(recipe):
    return [path.name for path in RunFolder(recipe.output).recorded_checkpoints()]


@pytest.fixture
def forgetful(make_recipe, data, tmp_path):
    """A function of changes: the loss on text is lowest in the middle of the run."""
    turns = [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "red green blue"}]
    (tmp_path / "odd.jsonl").write_text(json.dumps({"conversations": turns}) + "\n")

    def make(evaluate=None, **changes):
        held_out = [HeldOutSource(str(data / "text.jsonl"), name="text")]
        settings = {
            "steps": 8, "learning_rates": {"language_model": 3e-2}, "warmup_ratio": 0.0,
            "data": [DataSource(str(tmp_path / "odd.jsonl"))],
            "evaluate": Evaluate(held_out, 2, 0, 0, False, **{"best": FIGURE, **(evaluate or {})}),
        }  # fmt: skip
        return make_recipe("instruct", **{**settings, **changes})

    return make


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A place for what the first test made."""
    return tmp_path_factory.mktemp("best")


@pytest.fixture
def finished(forgetful, place, tmp_path):
    """A recipe that loads the best, whose finished run is in its folder."""
    recipe = forgetful({"load_best": True})
    if not (place / "run").exists():
        train(recipe)
        shutil.move(tmp_path / "run", place / "run")
    shutil.copytree(place / "run", tmp_path / "run")
    return recipe


def test_the_best_is_kept_named_and_loaded(finished, forgetful, tmp_path, capsys):
    result = TrainResult.read(RunFolder(finished.output))
    losses = {entry["step"]: entry[FIGURE] for entry in result.evaluations}
    step = min((s for s in losses if s), key=losses.get)
    assert list(losses) == [0, 2, 4, 6, 8] and step < 8, losses
    expected = {"step": step, "figure": FIGURE, "value": losses[step], "start": losses[0]}
    assert result.best == expected and result.model_step == step
    # Without save_every there are the checkpoints that were the best once, and no other.
    assert f"checkpoint-{step}" in names(finished)
    best = weights(RunFolder(finished.output).checkpoint(step))
    assert same(weights(finished.output), best)
    # The last weights, with checkpoints of every step: the best one stays besides the last.
    last = forgetful(save_every=1, save_total_limit=1, output=str(tmp_path / "last"))
    capsys.readouterr()
    other = train(last)
    assert other.best == expected and other.model_step == 8
    assert f"best: {FIGURE} {losses[step]:.4f} at step {step}" in (out := capsys.readouterr().out)
    assert "the model is that of step 8" in out
    assert names(last) == [f"checkpoint-{step}", "checkpoint-8"]
    assert not same(weights(last.output), best)
    # The result of a finished run may be changed to the best of its checkpoints, if that is whole.
    file = RunFolder(last.output).checkpoint(step) / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(WingsError, match=r"load_best: .*, is not whole \(.*load_best=false to end"):
        train(replace(last, evaluate=finished.evaluate))
    file.write_bytes(content)
    assert train(replace(last, evaluate=finished.evaluate)).model_step == step
    assert same(weights(last.output), best)


def test_a_kill_between_two_files_resumes_to_the_same_best(forgetful, finished, tmp_path):
    """Before a checkpoint that is no longer the best is removed; and in the final model."""
    recipe = forgetful({"load_best": True}, output=str(tmp_path / "killed"), save_total_limit=1)
    assert in_a_child(calls_of_runs, [recipe], 0, str(tmp_path / "log")) == 0
    calls = (tmp_path / "log").read_text().splitlines()
    whole, expected = train(recipe), weights(recipe.output)
    assert same(expected, weights(finished.output))
    step, kept = whole.model_step, names(recipe)
    removed = next(n for n, call in enumerate(calls, 1) if "doomed" in call)
    for number in (removed, len(calls) - 3):
        shutil.rmtree(recipe.output)
        code = in_a_child(calls_of_runs, [recipe], number, "")
        assert code == -signal.SIGKILL, calls[number - 1]
        result = train(recipe)
        assert (result.model_step, result.best) == (step, whole.best), calls[number - 1]
        assert same(weights(recipe.output), expected) and names(recipe) == kept


def test_two_processes_load_the_best_of_their_shards(forgetful, tmp_path):
    recipe = forgetful({"load_best": True}, parallel="fsdp", output=str(tmp_path / "two"))
    (tmp_path / "r.yaml").write_text(recipe.to_yaml())
    code, printed, errors = run_ranks(2, "-m", "wings.train", "r.yaml", cwd=tmp_path)
    assert code == 0, errors[-3000:]
    result = TrainResult.read(RunFolder(recipe.output))
    assert result.model_step == result.best["step"] < 8 and "best: eval/text/loss" in printed
    # The finished model has the loss of its evaluation.
    again = forgetful(start=recipe.output, output=str(tmp_path / "again"), steps=1)
    assert train(again).evaluations[0][FIGURE] == pytest.approx(result.best["value"], rel=1e-4)


def test_the_lowest_finite_value_after_the_start_is_the_best():
    values = [0.1, 0.5, float("nan"), 0.3, 0.3]
    history = [{"step": n, "eval_text/loss": value} for n, value in enumerate(values)]
    history.insert(1, {"step": 1, "loss": 0.0})
    best = BestEvaluation.of(history, FIGURE)
    assert best == BestEvaluation(3, FIGURE, 0.3, 0.1)
    assert "0.3000 at step 3, more than the 0.1000 of the start; the model is that of step 4" in (
        best.describe(4)
    )
    assert BestEvaluation.of(history[:1], FIGURE) is None
    assert BestEvaluation.of(history, None) is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"best": "txt"},
            r"no figure is named 'txt' \(did you mean 'text'\?\); known: eval/text/l",
        ),
        ({"best": "eval/pictures/loss"}, "no figure is named 'eval/pictures/loss'"),
        ({"best": "loss/text"}, "no figure is named"),
        ({"load_best": True}, "evaluate.load_best: needs evaluate.best"),
    ],
)
def test_a_best_that_no_evaluation_has(changes, sentence):
    values = {"stage": "align", "output": "o", "start": "s", "data": [{"path": "b.jsonl"}]}
    evaluate = {"data": [{"path": "a.jsonl", "name": "text"}], **changes}
    with pytest.raises(WingsError, match=sentence):
        Recipe.from_dict({**values, "evaluate": evaluate})


def test_a_set_stands_for_its_loss_and_text_after_an_image_is_one():
    figures = {"text_after_image": "eval/text_after_image/loss"}
    figures |= {name: name for name in ("eval/text_after_image/kl", "eval/text/rise")}
    values = {"stage": "align", "output": "o", "start": "s", "data": [{"path": "b.jsonl"}]}
    for best, figure in figures.items():
        evaluate = {"data": [{"path": "a.jsonl", "name": "text"}], "best": best}
        assert Recipe.from_dict({**values, "evaluate": evaluate}).evaluate.best_figure == figure
    with pytest.raises(WingsError, match="text_after_image/loss is not measured, as the data have"):
        validate_best_set(Evaluate(best="text_after_image"), ["text"])


def test_a_figure_that_the_first_evaluation_lacks_is_named(forgetful):
    with pytest.raises(WingsError, match=r"has eval/text/kl; known: eval/text/loss, eval/tex"):
        train(forgetful({"best": "eval/text/kl"}))


def test_a_run_that_is_killed_in_a_step_has_the_same_best(forgetful, finished, tmp_path):
    recipe = forgetful({"load_best": True}, output=str(tmp_path / "other"))
    with killed_at(7):
        train(recipe)
    assert train(recipe).best == TrainResult.read(RunFolder(finished.output)).best
    assert same(weights(recipe.output), weights(finished.output))
