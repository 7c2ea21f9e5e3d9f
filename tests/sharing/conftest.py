"""A loopback Hub for each test, and the small checkpoint as the folder of a finished run."""

import json
import shutil

import pytest
from hub import Hub
from interpreter import run
from small_checkpoint import checkpoint, data  # noqa: F401

RECIPE = """\
stage: instruct
output: .
start: ../align
data:
- path: {data}/questions.jsonl
- path: lab/pictures
text_turns:
  path: ../text.jsonl
  share: 0.5
freeze_llm: true
learning_rates:
  projector: 1e-4
  image_learners: 0.0003
steps: 60
batch_size: 8
seed: 3
"""
FIRST = """\
stage: align
model:
  text: {home}/models/llm
  vision: local-dir:{home}/models/tower
data:
- path: {data}/captions.jsonl
learning_rates: {{projector: 0.002}}
steps: 30
batch_size: 4
seed: 7
"""


@pytest.fixture
def hub():
    with Hub() as running:
        yield running


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The home folder of the user, with the parts of the model in it."""
    home = tmp_path / "anna-home"
    (home / "models" / "llm").mkdir(parents=True)
    (home / "models" / "tower").mkdir()
    (home / "models" / "llm" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# LLM\n")
    (home / "models" / "tower" / "LICENSE").write_text(
        "MIT License\n\nPermission is hereby granted, free of charge, to any person obtaining a "
        "copy, to deal in the Software without restriction, including without limitation the "
        "rights to use\n"
    )
    monkeypatch.setenv("HOME", str(home))
    return home


@pytest.fixture
def folder(checkpoint, home, tmp_path):  # noqa: F811
    """A finished run of two stages, with all that a run leaves behind."""
    runs = tmp_path / "runs"
    (runs / "align").mkdir(parents=True)
    (runs / "align" / "recipe.yaml").write_text(FIRST.format(home=home, data=home / "data"))
    (runs / "align" / "result.json").write_text(json.dumps({"steps": 30, "seconds": 12.5}))
    folder = runs / "instruct"
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["_name_or_path"] = f"{home}/models/llm"
    config["llm_trained"], config["text_guard"] = False, True
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "recipe.yaml").write_text(RECIPE.format(data=home / "data"))
    result = {
        "steps": 60, "seconds": 61.0, "history": [{"step": 60, "loss": 0.4321}],
        "skipped": [f"{home}/data/questions.jsonl:7: a secret answer"], "stopped": None,
        "versions": {"wings-lorra": "0.1.0", "commit": "abc1234"},
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
    (folder / ".wings").mkdir()
    (folder / ".wings" / "lock").touch()
    (folder / "checkpoint-40").mkdir()
    for name in ("optimizer.pt", "answers.jsonl", "training_args.bin", "run.log", "notes.odt"):
        (folder / name).write_bytes(b"private")
    return folder


@pytest.fixture
def push(hub, home, tmp_path):
    """Calls `wings push` in a process of its own, in an empty working folder."""
    (tmp_path / "work").mkdir()

    def call(*arguments, command="push", token="hf_anna", **more):
        environment = hub.environment(home / ".cache", token, HOME=str(home), **more)
        words = ["-m", "wings.cli", command, *arguments]
        return run(words, environment, cwd=tmp_path / "work")

    return call
