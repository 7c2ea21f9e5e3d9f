"""Faults: kills at every file-system call, full disks, lost files, a loss that is not a number."""

import shutil
import signal
from pathlib import Path

import pytest
import torch
from faults import CALLS, calls_of_runs, lose_workers, run_into_a_limit
from forked import in_a_child
from safetensors.torch import load_file

from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor
from wings.train.data.dataset import ConversationDataset
from wings.train.metrics.metric_tracker import without_process_metrics
from wings.train.recipe import DataSource
from wings.train.resume_state import ResumeState
from wings.train.run import train
from wings.train.run_folder import RunFolder
from wings.train.trainer import WingsTrainer

# There are about a hundred calls in a run; some of them, a different one of each kind.
EVERY = 17


def weights(folder):
    tensors = load_file(Path(folder) / "model.safetensors")
    return {name: tensor.clone() for name, tensor in tensors.items()}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_kill_before_any_call_to_the_file_system_loses_nothing(make_recipe, data, tmp_path):
    # Two records cannot be used; the count of them must survive too.
    records = [*(data / "text.jsonl").read_text().splitlines(), "{oops", '{"conversations": []}']
    (tmp_path / "d.jsonl").write_text("\n".join(records))
    settings = {
        "steps": 4, "save_every": 1, "save_total_limit": 1, "log_every": 3,
        "learning_rates": {"projector": 1e-2}, "on_bad_record": "skip",
        "data": [DataSource(str(tmp_path / "d.jsonl"))],
    }  # fmt: skip
    recipe = make_recipe("align", **settings)
    assert in_a_child(calls_of_runs, [recipe], 0, str(tmp_path / "log")) == 0
    calls = (tmp_path / "log").read_text().splitlines()
    assert {call.split()[0] for call in calls} == set(CALLS)
    expected, whole = train(recipe), weights(recipe.output)
    assert len(expected.skipped) == 2
    for number in range(1, len(calls) + 1, EVERY):
        shutil.rmtree(recipe.output)
        assert in_a_child(calls_of_runs, [recipe], number, "") == -signal.SIGKILL, calls[number - 1]
        assert not RunFolder(recipe.output).finished
        assert in_a_child(train, recipe) == 0, calls[number - 1]
        result = train(recipe)
        assert without_process_metrics(result.history) == without_process_metrics(expected.history)
        assert result.skipped == expected.skipped
        assert same(weights(recipe.output), whole), calls[number - 1]
        assert not any(RunFolder(recipe.output).owned.drafts.rglob("*"))


# Sizes between those of the files of an instruct checkpoint, in the order they are written.
SIZES = {1_000: "config.json", 50_000: "model.safetensors", 350_000: "optimizer.pt"}


def settings(**changes):
    """Four steps with checkpoints after the second and the fourth, and rates that are seen."""
    rates = {"projector": 1e-2, "language_model": 1e-3}
    return {"steps": 4, "save_every": 2, "log_every": 3, "learning_rates": rates, **changes}


@pytest.fixture
def whole(make_recipe, tmp_path):
    """The result of those steps, undisturbed, in a process like those that are disturbed."""
    recipe = make_recipe("instruct", output=str(tmp_path / "whole"), **settings())
    assert in_a_child(train, recipe) == 0
    return train(recipe)


def test_a_kill_in_the_middle_of_a_file_loses_nothing(make_recipe, tmp_path, whole):
    """The kernel kills at a byte; half of a file is on the disk."""
    for size, name in SIZES.items():
        recipe = make_recipe("instruct", output=str(tmp_path / name), **settings())
        assert in_a_child(run_into_a_limit, recipe, size, True, "") == -signal.SIGXFSZ
        folder = RunFolder(recipe.output)
        complete, draft = whole.folder / "checkpoint-4", folder.unfinished("4") / "checkpoint-4"
        sizes = {file.name: file.stat().st_size for file in complete.iterdir()}
        halves = [file for file in draft.iterdir() if sizes.get(file.name) != file.stat().st_size]
        assert len(halves) == 1, {file.name: file.stat().st_size for file in halves}
        half = halves[0]
        # safetensors writes aside and renames, too.
        assert half.name == name or half.name.startswith(".tmp")
        assert half.stat().st_size <= size < sizes[name]
        assert folder.last_checkpoint().name == "checkpoint-2"
        result = train(recipe)
        assert without_process_metrics(result.history) == without_process_metrics(whole.history)
        assert same(weights(result.folder), weights(whole.folder))
        assert not any(folder.owned.drafts.rglob("*"))


def test_a_full_disk_stops_with_a_sentence_and_leaves_what_was_whole(make_recipe, tmp_path, whole):
    for size, name in SIZES.items():
        recipe = make_recipe("instruct", output=str(tmp_path / name), **settings())
        said = tmp_path / f"{name}.said"
        assert in_a_child(run_into_a_limit, recipe, size, False, str(said)) == 0
        sentence = said.read_text()
        assert "the checkpoint of step 4 could not be written" in sentence and "\n" not in sentence
        assert (
            f"{recipe.output}/checkpoint-2; free disk space" in sentence
            and "GB are free" in sentence
        )
        # What was half-written gives its room back.
        assert {path.name for path in Path(recipe.output).iterdir()} == {
            ".wings", "recipe.yaml", "checkpoint-2"
        }  # fmt: skip
        result = train(recipe)
        assert without_process_metrics(result.history) == without_process_metrics(whole.history)
        assert same(weights(result.folder), weights(whole.folder))


@pytest.mark.parametrize("deadly", [True, False])
def test_half_a_final_model_is_no_model(make_recipe, tmp_path, whole, deadly):
    recipe = make_recipe("instruct", **settings(save_every=None))
    code = in_a_child(run_into_a_limit, recipe, 50_000, deadly, str(tmp_path / "said"))
    assert code == (-signal.SIGXFSZ if deadly else 0)
    if not deadly:
        sentence = (tmp_path / "said").read_text()
        assert "the final model could not be written" in sentence and "no checkpoint" in sentence
    with pytest.raises(WingsError, match=r"no result\.json; finish that run first"):
        train(make_recipe("instruct", output=str(tmp_path / "two"), start=recipe.output))
    assert same(weights(train(recipe).folder), weights(whole.folder))


def test_a_folder_that_cannot_be_written_is_named(make_recipe, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WingsError, match=r"the folder could not be written.*no checkpoint was"):
        train(make_recipe("align", output=str(tmp_path / "file" / "run")))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_lost_in_the_middle_stops_and_names_what_was_saved(
    make_recipe, data, tmp_path, workers
):
    folder = tmp_path / "data"
    shutil.copytree(data, folder)

    def lose(step, steps, metrics):
        if step == 4:
            for picture in folder.glob("*.png"):
                picture.unlink()

    changes = {"data": [DataSource(str(folder / "pictures.json"), str(folder))], "workers": workers}
    whole = train(make_recipe("instruct", output=str(tmp_path / "w"), **settings(steps=40)))
    recipe = make_recipe("instruct", **settings(steps=40, **changes))
    with pytest.raises(WingsError) as error:
        train(recipe, watch=lose)
    last = RunFolder(recipe.output).last_checkpoint()
    sentence = str(error.value)
    assert "record" in sentence and ".png" in sentence and "\n" not in sentence
    assert f"the last whole checkpoint is {last}." in sentence and "after step" in sentence
    assert whole.steps == 40


def test_a_killed_data_worker_is_said_in_a_sentence(make_recipe, tmp_path):
    recipe = make_recipe("align", workers=1, steps=500)
    assert in_a_child(lose_workers, recipe, str(tmp_path / "said")) == 0
    sentence = (tmp_path / "said").read_text()
    assert "a data worker exited" in sentence and "lower workers; no checkpoint was" in sentence


def test_a_loss_that_is_not_a_number_never_reaches_a_checkpoint(make_recipe, checkpoint):
    """Checkpoints come at every step, the log would have come at the hundredth."""
    model = WingsForCausalLM.from_pretrained(checkpoint)
    processor = WingsProcessor.from_pretrained(checkpoint)
    kept = {}

    def poison(step, steps, metrics):
        if step == 3:
            kept.update({name: p.detach().clone() for name, p in model.named_parameters()})
            # Finite, so that the checkpoint of this step is written; its logits are not.
            torch.nn.init.constant_(model.lm_head.weight, 1e38)

    recipe = make_recipe("align", save_every=1, log_every=100, steps=9, start=None)
    with pytest.raises(WingsError, match=r"loss is (nan|inf) at step 4.*no weight.*checkpoint-3\."):
        train(recipe, model, processor, watch=poison)
    assert [path.name for path in RunFolder(recipe.output).checkpoints()][-1] == "checkpoint-3"
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    after = dict(model.named_parameters())
    assert trained and all(torch.equal(after[name], kept[name]) for name in trained)


def test_a_gradient_that_is_not_a_number_stops_too(make_recipe, checkpoint):
    model = WingsForCausalLM.from_pretrained(checkpoint)
    processor = WingsProcessor.from_pretrained(checkpoint)
    weight = model.model.projector.first.weight

    def poison(step, steps, metrics):
        if step == 2:
            weight.register_hook(lambda gradient: gradient * float("inf"))

    recipe = make_recipe("align", save_every=1, start=None, steps=5)
    with pytest.raises(WingsError, match=r"gradient is (nan|inf) at step 3.*checkpoint-2\."):
        train(recipe, model, processor, watch=poison)
    assert bool(torch.isfinite(weight).all())


def test_a_kill_between_the_stages_loses_nothing(make_recipe, tmp_path):
    """Before calls from the last ones of the first stage to the first of the second."""
    one = make_recipe("align", output=str(tmp_path / "one"), steps=2, save_every=2)
    two = make_recipe(
        "instruct", output=str(tmp_path / "two"), steps=2, save_every=2, start=one.output
    )
    stages = [one, two]
    assert in_a_child(calls_of_runs, stages, 0, str(tmp_path / "log")) == 0
    expected = [weights(one.output), weights(two.output)]
    calls = (tmp_path / "log").read_text().splitlines()
    change = next(n for n, call in enumerate(calls) if two.output in call)
    assert "result.json" in calls[change - 1]
    for number in (*range(change - 8, change + 3, 2), change + 9):
        for recipe in stages:
            shutil.rmtree(recipe.output, ignore_errors=True)
        assert in_a_child(calls_of_runs, stages, number, "") == -signal.SIGKILL, calls[number - 1]
        assert in_a_child(calls_of_runs, stages, 0, str(tmp_path / "log")) == 0, calls[number - 1]
        assert same(weights(one.output), expected[0]), calls[number - 1]
        assert same(weights(two.output), expected[1]), calls[number - 1]


# Where an error that nobody expects may come from inside a step: module, class and method.
PLACES = {
    "forward": (WingsForCausalLM, "forward"),
    "backward": (WingsTrainer, "training_step"),
    "optimizer": (torch.optim.AdamW, "step"),
    "data": (ConversationDataset, "encode"),
    "log": (WingsTrainer, "log"),
    "checkpoint": (ResumeState, "write"),
    "checkpoint's end": (RunFolder, "place_checkpoint"),
    "final model": (RunFolder, "place_model"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_run_resumes_after_an_exception_inside_a_step(make_recipe, tmp_path, monkeypatch, place):
    """Each of the six steps has two micro-batches; the run ends in its middle, or at its end."""
    changes = settings(steps=6, device_batch_size=2)
    whole = train(make_recipe("instruct", output=str(tmp_path / "w"), **changes))
    recipe = make_recipe("instruct", **changes)
    owner, name = PLACES[place]
    original, calls = getattr(owner, name), []
    fails_at = {"checkpoint": 2, "checkpoint's end": 2, "final model": 1}.get(place, 7)
    fails_at = {"optimizer": 3, "log": 3, "data": 14}.get(place, fails_at)

    def failing(self, *arguments, **others):
        calls.append(1)
        if len(calls) == fails_at:
            raise ZeroDivisionError("no error of ours")
        return original(self, *arguments, **others)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing)
        with pytest.raises(ZeroDivisionError):
            train(recipe)
    assert not RunFolder(recipe.output).finished
    result = train(recipe)
    assert without_process_metrics(result.history) == without_process_metrics(whole.history)
    assert same(weights(recipe.output), weights(whole.folder))
