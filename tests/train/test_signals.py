"""Tests of signals that save and stop: one process, data workers, two processes."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
import torch
from forked import Program, run_ranks
from safetensors.torch import load_file

from wings.train.__main__ import main
from wings.train.run import train
from wings.train.run_folder import RunFolder
from wings.train.signals import NOT_FINISHED, Preempted


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(one, two):
    one, two = weights(one), weights(two)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def send_at(step, number=signal.SIGTERM):
    """A watch that signals its own process when a step is done."""
    return lambda now, steps, metrics: now == step and os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_the_running_step_and_the_same_call_goes_on(make_recipe, tmp_path, number):
    settings = {"steps": 6, "log_every": 4, "learning_rates": {"projector": 1e-2}}
    whole = train(make_recipe("align", output=str(tmp_path / "whole"), **settings))
    recipe = make_recipe("align", **settings)
    before = signal.getsignal(number)
    # After step 2, so during step 3; nothing is saved otherwise.
    with pytest.raises(Preempted, match=rf"{number.name} after step 3 of 6.*checkpoint-3"):
        train(recipe, watch=send_at(2, number))
    assert signal.getsignal(number) is before
    folder = RunFolder(recipe.output)
    assert [path.name for path in folder.checkpoints()] == ["checkpoint-3"] and not folder.finished
    result = train(recipe)
    # The mean of steps 1 to 4, which two processes have seen.
    assert result.losses == whole.losses and same(result.folder, whole.folder)


def test_a_signal_during_the_last_step_or_the_final_save_lets_the_run_finish(make_recipe):
    result = train(make_recipe("align", steps=3), watch=send_at(2))
    assert (result.folder / "result.json").is_file()
    assert not RunFolder(result.folder).checkpoints()


def test_outside_the_main_thread_nothing_is_caught(make_recipe):
    done = []
    thread = threading.Thread(target=lambda: done.append(train(make_recipe("align", steps=1))))
    thread.start()
    thread.join()
    assert done[0].steps == 1


def test_the_command_stops_with_its_own_exit_code(make_recipe, tmp_path, capsys, monkeypatch):
    recipe = make_recipe("align", steps=4, log_every=2)
    (tmp_path / "r.yaml").write_text(recipe.to_yaml())

    def signals(progress, arguments, *args, **kwargs):
        if arguments.output_dir == recipe.output:  # the run itself, not its preflight
            # More than once, as launchers do.
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("wings.train.metrics.progress.Progress.on_train_begin", signals)
    assert main([str(tmp_path / "r.yaml")]) == NOT_FINISHED == 75
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Stopped by SIGTERM after step 1 of 4" in said


def test_a_cluster_may_signal_every_process_data_workers_too(make_recipe, tmp_path):
    recipe = make_recipe("align", steps=5000, workers=1, batch_size=2)
    (tmp_path / "r.yaml").write_text(recipe.to_yaml())
    run = Program("-m", "wings.train", tmp_path / "r.yaml")
    while "align 3/" not in run.stdout.readline():
        assert run.poll() is None, run.stderr.read()
    os.killpg(run.pid, signal.SIGTERM)
    _, errors = run.communicate(timeout=120)
    assert run.returncode == NOT_FINISHED, errors
    assert "checkpoint-" in errors and "Traceback" not in errors
    (checkpoint,) = RunFolder(recipe.output).checkpoints()
    assert (checkpoint / "trainer_state.json").is_file()


def test_two_processes_stop_after_the_same_step_whichever_is_asked(make_recipe, tmp_path):
    """The second process alone gets the signal; both save and leave, and both go on."""
    recipe = make_recipe("align", steps=6, output="run", learning_rates={"projector": 1e-2})
    (tmp_path / "r.yaml").write_text(recipe.to_yaml())
    (tmp_path / "script.py").write_text(
        textwrap.dedent(
            """
            import os, signal, sys, torch
            from wings.train.signals import SignalHandler, Preempted
            from wings.train.recipe import Recipe
            from wings.train.run import train

            def watch(state):
                if os.environ["RANK"] == "1" and state.global_step == 2:
                    os.kill(os.getpid(), signal.SIGUSR1)

            original = SignalHandler.on_step_end
            def on_step_end(self, args, state, control, **kwargs):
                original(self, args, state, control, **kwargs)
                watch(state)
            SignalHandler.on_step_end = on_step_end
            try:
                train(Recipe.from_yaml("r.yaml"))
            except Preempted as stopped:
                # One write: torchrun's workers do not buffer, and pieces would mix.
                sys.stdout.write(f"left: {stopped}\\n")
            print("then", train(Recipe.from_yaml("r.yaml")).losses, flush=True)
            torch.distributed.destroy_process_group()
            """
        )
    )
    code, printed, errors = run_ranks(2, "script.py", cwd=tmp_path, timeout=120)
    assert code == 0, errors[-3000:]
    assert printed.count("left: Stopped by") == printed.count("after step 3 of 6") == 2
    assert printed.count("by SIGUSR1") == printed.count("by a signal to another process") == 1
    assert (tmp_path / "run" / "checkpoint-3" / "rng_state_1.pth").is_file()
    history = json.loads((tmp_path / "run" / "result.json").read_text())["history"]
    assert [entry["step"] for entry in history] == [1, 2, 3, 4, 5, 6]


def test_a_launcher_that_is_terminated_leaves_a_checkpoint_and_packed_ranks_go_on(
    make_recipe, tmp_path
):
    """As on a cluster: the launcher gets SIGTERM, and the same command runs again later."""
    settings = {
        "steps": 18,
        "batch_size": 4,
        "batching": "pack",
        "learning_rates": {"projector": 1e-2},
    }
    whole = train(make_recipe("align", output=str(tmp_path / "whole"), **settings))
    recipe = make_recipe("align", **settings)
    (tmp_path / "r.yaml").write_text(recipe.to_yaml())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    launcher = subprocess.Popen(
        [*command, "-m", "wings.train", "r.yaml"], cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    # In the middle of the second epoch of six steps: the rest of it must be its own.
    while "align 7/" not in launcher.stdout.readline():
        assert launcher.poll() is None, launcher.stderr.read()
    launcher.terminate()
    _, errors = launcher.communicate(timeout=120)
    assert launcher.returncode != 0 and errors.count("Stopped by SIGTERM after step") == 1, errors
    assert len(RunFolder(recipe.output).checkpoints()) == 1
    code, _, errors = run_ranks(2, "-m", "wings.train", "r.yaml", cwd=tmp_path)
    assert code == 0, errors[-3000:]
    history = RunFolder(recipe.output).read_result()["history"]
    assert [entry["loss"] for entry in history] == pytest.approx(whole.losses, rel=1e-4)
