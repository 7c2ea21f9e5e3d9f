"""Trackers: TensorBoard's files, which ones are known, and what happens without one."""

import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerCallback

from wings.errors import WingsError
from wings.train.metrics import trackers
from wings.train.recipe import Evaluate, HeldOutSource
from wings.train.run import train


def scalars(folder):
    """Steps and values of every figure, as TensorBoard shows them."""
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


class Killed(Exception):
    pass


@pytest.mark.parametrize("save_every", [None, 2])
def test_event_files_go_on_after_a_kill_without_doubled_steps(
    make_recipe, data, monkeypatch, save_every
):
    held_out = Evaluate([HeldOutSource(str(data / "text.jsonl"), name="text")], 2, 0, 0)
    recipe = make_recipe(
        "instruct", steps=6, save_every=save_every, trackers=None, evaluate=held_out
    )

    def die(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(TrainerCallback, "on_substep_end", die)
        patch.setattr(trackers.EventFiles, "on_step_end", die)
        train(recipe)
    result = train(recipe)
    found = scalars(result.folder)
    assert len(list((result.folder / "tensorboard").iterdir())) == 2
    for name in ("loss", "grad_norm", "rate/projector", "tokens_per_second", "gate/image/1"):
        steps, values = zip(*found[f"train/{name}"], strict=True)
        assert steps == (1, 2, 3, 4, 5, 6)
        assert values == pytest.approx([entry[name] for entry in result.history], rel=1e-5)
    for name in ("eval/text/loss", "eval/text/rise"):
        steps, values = zip(*found[name], strict=True)
        assert steps == (0, 2, 4, 6)
        expected = [entry[name] for entry in result.evaluations]
        assert values == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_a_run_without_trackers_writes_no_figures(make_recipe):
    result = train(make_recipe("align", trackers=[], steps=1))
    assert not (result.folder / "tensorboard").exists()


def test_unknown_trackers_are_named(make_recipe):
    with pytest.raises(WingsError, match=r"'tensorbord' \(did you mean 'tensorboard'\?\)"):
        make_recipe("align", trackers=["tensorbord"])


def test_a_tracker_that_is_missing_is_refused_before_anything_is_loaded(make_recipe, monkeypatch):
    monkeypatch.setitem(trackers.TRACKERS, "wandb", missing)
    recipe = make_recipe("align", trackers=["tensorboard", "wandb"])
    with pytest.raises(WingsError, match=r"trackers: wandb cannot be used.*pip install wandb"):
        train(recipe)


def missing():
    raise RuntimeError("it is not there. Run `pip install wandb`.")


def test_without_tensorboard_a_run_trains_unless_it_was_asked_for(make_recipe, monkeypatch, capsys):
    monkeypatch.setattr(trackers, "installed_trackers", lambda: ["mlflow"])
    monkeypatch.setattr(trackers, "EventFiles", lambda recipe: missing())
    result = train(make_recipe("align", trackers=None, steps=1))
    assert result.steps == 1 and not (result.folder / "tensorboard").exists()
    assert "TensorBoard is not installed" in capsys.readouterr().out
    with pytest.raises(WingsError, match="trackers: tensorboard cannot be used"):
        train(make_recipe("align", trackers=["tensorboard"], steps=1, seed=1, output="other"))


def test_trackers_may_change_when_a_run_goes_on(make_recipe):
    recipe = make_recipe("align", trackers=[])
    assert recipe.difference(make_recipe("align", trackers=["tensorboard"])) is None


def test_wandb_offline(make_recipe, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    for name, value in {"MODE": "offline", "DIR": tmp_path, "SILENT": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", str(value))
    result = train(make_recipe("align", steps=2, trackers=["wandb"]))
    # `finish` returns before the file is closed; `teardown` waits for the process that writes it.
    wandb.teardown()
    # No public reader of the file is left in wandb; names and values are JSON in it.
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    text = file.read_bytes()
    for entry in result.history:
        assert repr(entry["loss"]).encode()[:8] in text
    for name in ("loss", "grad_norm", "rate/projector", "tokens_per_second"):
        assert f"train/{name}".encode() in text


def test_trackio(make_recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio", reason="trackio is not installed")
    for name, module in list(sys.modules.items()):
        # Read from the environment once, when it is imported.
        if name.startswith("trackio") and hasattr(module, "TRACKIO_DIR"):
            monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    from trackio.sqlite_storage import SQLiteStorage

    result = train(make_recipe("align", steps=2, trackers=["trackio"]))
    (run,) = trackio.Api().runs("huggingface")
    logs = [
        entry for entry in SQLiteStorage.get_logs("huggingface", run.name) if "train/loss" in entry
    ]
    assert [entry["train/loss"] for entry in logs] == [entry["loss"] for entry in result.history]
