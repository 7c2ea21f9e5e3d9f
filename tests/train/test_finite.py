"""Nothing that is not finite is written: weights, optimiser state, the finished model."""

import os
from pathlib import Path

import pytest
import torch

from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor
from wings.train import run, trainer
from wings.train.finite import first_not_finite
from wings.train.metrics.evaluate import HeldOutEvaluation, evaluations
from wings.train.recipe import EarlyStop, Evaluate, HeldOutSource
from wings.train.run import train
from wings.train.run_folder import RunFolder
from wings.train.signals import DistributedStop

TRAINED, FROZEN = "model.projector.first.weight", "lm_head.weight"


@pytest.fixture
def poisoned(make_recipe, checkpoint, monkeypatch):
    """A function of a change: trains, and applies it to the trainer after step 3."""

    def work(change, **settings):
        trainers = []
        original = run.WingsTrainer.__init__

        def init(self, **kwargs):
            original(self, **kwargs)
            trainers.append(self)

        monkeypatch.setattr(run.WingsTrainer, "__init__", init)

        def watch(step, steps, metrics):
            if step == 3:
                with torch.no_grad():
                    change(trainers[0])

        recipe = make_recipe("align", **{"steps": 3, "log_every": 100, **settings})
        with pytest.raises(WingsError) as error:
            train(recipe, watch=watch)
        return RunFolder(recipe.output), str(error.value)

    return work


def weight(name, value):
    def change(trainer):
        dict(trainer.model.named_parameters())[name].view(-1)[-1] = value

    return change


def state(key, value):
    def change(trainer):
        parameter = dict(trainer.model.named_parameters())[TRAINED]
        trainer.optimizer.state[parameter][key].view(-1)[0] = value

    return change


CHANGES = {
    f"{name} {value}": (weight(name, value), f"the weight {name}")
    for name in (TRAINED, FROZEN)
    for value in (float("nan"), float("inf"), -float("inf"))
} | {
    key: (state(key, float("nan")), f"the optimizer's {key} of {TRAINED}")
    for key in ("exp_avg", "exp_avg_sq")
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_checkpoint_is_not_written_and_the_finite_one_stays(poisoned, kind):
    change, name = CHANGES[kind]
    folder, said = poisoned(change, save_every=1, save_total_limit=1)
    assert said.startswith(f"After step 3, {name} is not finite: lower the learning rates")
    assert said.endswith(f"the last whole checkpoint is {folder.checkpoint(2)}.")
    assert [path.name for path in folder.checkpoints()] == ["checkpoint-2"]
    assert not (folder.path / "model.safetensors").exists() and not folder.finished


@pytest.mark.parametrize("kind", [kind for kind in CHANGES if not kind.startswith("exp")])
def test_a_final_model_is_not_written(poisoned, kind):
    change, name = CHANGES[kind]
    folder, said = poisoned(change)
    assert f"{name} is not finite" in said and said.endswith("no checkpoint was saved.")
    assert sorted(os.listdir(folder.path)) == [".wings", "recipe.yaml"]


@pytest.mark.parametrize("save_every", [1, None])
@pytest.mark.parametrize("rate", [1e30, 1e38])
def test_a_rate_that_blows_up_leaves_nothing_behind(make_recipe, rate, save_every):
    recipe = make_recipe("align", steps=2, save_every=save_every, warmup_ratio=0.0)
    # A recipe that is read allows no such rate; a program may set one.
    recipe.learning_rates, recipe.max_grad_norm = {"projector": rate}, 1e9
    with pytest.raises(WingsError, match=r"(is not finite|is nan|is inf).*lower the lear"):
        train(recipe)
    folder = RunFolder(recipe.output)
    assert not (folder.path / "model.safetensors").exists()
    for path in folder.checkpoints():
        model = WingsForCausalLM.from_pretrained(path)
        assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


@pytest.mark.parametrize("stop", [False, EarlyStop("text", 0.1)])
def test_a_held_out_loss_that_is_not_finite_ends_the_run(make_recipe, data, monkeypatch, stop):
    """Even if the weights are finite; an early stop would save them as the finished model."""
    original = HeldOutEvaluation.run

    def overflowing(self, model, llm, accelerator, size, history):
        if evaluations(history):
            torch.nn.init.constant_(model.lm_head.weight, 1e38)
        return original(self, model, llm, accelerator, size, history)

    monkeypatch.setattr(HeldOutEvaluation, "run", overflowing)
    held_out = HeldOutSource(str(data / "text.jsonl"), limit=3, name="text")
    recipe = make_recipe(
        "align", steps=2, save_every=1, evaluate=Evaluate([held_out], 2, 0, 0, stop)
    )
    with pytest.raises(DistributedStop, match=r"^The loss on text is (nan|inf) after step 2: low"):
        train(recipe)
    folder = RunFolder(recipe.output)
    assert [path.name for path in folder.checkpoints()] == ["checkpoint-1"]
    assert not (folder.path / "model.safetensors").exists() and not folder.finished


def test_a_start_that_is_not_finite_is_refused_before_training(make_recipe, checkpoint, tmp_path):
    model = WingsForCausalLM.from_pretrained(checkpoint)
    torch.nn.init.constant_(model.model.projector.first.weight, float("nan"))
    model.save_pretrained(tmp_path / "bad")
    WingsProcessor.from_pretrained(checkpoint).save_pretrained(tmp_path / "bad")
    with pytest.raises(WingsError, match=f"cannot be trained: the weight {TRAINED} is not finite"):
        train(make_recipe("align", start=str(tmp_path / "bad")))


def test_a_bad_value_in_another_process_stops_this_one(make_recipe, monkeypatch):
    gather = trainer.gather_object

    def with_another(objects):
        return [*gather(objects), *(["the weight a.b"] if objects == [None] else [])]

    monkeypatch.setattr(trainer, "gather_object", with_another)
    recipe = make_recipe("align", save_every=1)
    with pytest.raises(DistributedStop, match=r"After step 1, the weight a\.b is not finite"):
        train(recipe)
    assert not RunFolder(recipe.output).recorded_checkpoints()


DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_value_is_found_wherever_it_is(dtype, value):
    if dtype == torch.float8_e4m3fn and value == value:
        pytest.skip("this dtype has no infinity")
    for shape in ((), (1,), (3, 5), (2, 1, 7)):
        clean = torch.randn(shape).to(dtype)
        for place in range(clean.numel()):
            bad = clean.float().clone().reshape(-1)
            bad[place] = value
            tensors = [("a", clean, dtype), ("b", bad.reshape(shape).to(dtype), dtype)]
            assert first_not_finite(tensors) == "b"
        assert first_not_finite([("a", clean, dtype)]) is None


def test_large_values_whole_numbers_and_empty_tensors_are_fine():
    largest = torch.full((2,), torch.finfo(torch.float32).max)
    tensors = [
        ("a", largest, torch.float32),
        ("b", torch.zeros(0), torch.float32),
        ("c", torch.ones(2, dtype=torch.long), torch.long),
    ]
    assert first_not_finite(tensors) is None
    # It is infinite in the file.
    assert first_not_finite([("d", largest, torch.bfloat16)]) == "d"


def test_files_of_a_run_can_be_read_by_others(make_recipe):
    recipe = make_recipe("align", save_every=2)
    train(recipe)
    umask = os.umask(0o022)
    os.umask(umask)
    for path in Path(recipe.output).rglob("*"):
        wanted = 0o777 if path.is_dir() else 0o666
        assert path.stat().st_mode & 0o777 == wanted & ~umask, path
