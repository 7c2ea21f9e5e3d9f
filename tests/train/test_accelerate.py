"""`accelerate launch` starts a training run in several processes, as torchrun does."""

import json
import os
import subprocess
import sys

import pytest

from wings.train.run import train

SCRIPT = """
import os, pathlib, runpy
pathlib.Path(f"{os.environ['RANK']} of {os.environ['WORLD_SIZE']}").touch()
runpy.run_module("wings.train", run_name="__main__", alter_sys=True)
"""


def test_accelerate_launches_two_processes(make_recipe, tmp_path):
    recipe = make_recipe("align", steps=2)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu"]
    command += ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    command += ["--dynamo_backend", "no", "--main_process_port", "0", "script.py", "recipe.yaml"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        text=True,
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {file.name for file in tmp_path.glob("* of *")} == {"0 of 2", "1 of 2"}
    both = json.loads((tmp_path / "run/result.json").read_text())["history"]
    alone = train(make_recipe("align", steps=2, output=str(tmp_path / "alone"))).history
    losses = [[entry["loss"] for entry in history] for history in (both, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
