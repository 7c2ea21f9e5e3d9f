"""A tiny Wings checkpoint and tiny data for the training tests, made once a session."""

import json
from pathlib import Path

import pytest
import spread
from forked import run_ranks
from tiny import records, tiny_model

from wings.train.recipe import DataSource, Evaluate, Recipe

# Long enough for two processes to import torch on a busy machine, short enough to name a hang.
HANG = 240
SPREAD = Path(spread.__file__)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Folder of a checkpoint as stage 1 leaves it: a visual learner, no router."""
    folder = tmp_path_factory.mktemp("start")
    model, processor = tiny_model(learners=("image",), router=None)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_model():
    """A function of options: a random model with them, and its processor."""
    return tiny_model


@pytest.fixture
def plain():
    """A model without learners, and its processor."""
    return tiny_model(learners=())


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Two files: `pictures.json` of 16 records, `text.jsonl` of 8."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "pictures.json").write_text(json.dumps([*records(folder, 16, pictures=True)]))
    lines = [json.dumps(record) for record in records(folder, 8, pictures=False)]
    (folder / "text.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def make_recipe(checkpoint, data, tmp_path):
    """A function of (stage, **changes): a recipe of a few steps on the mixed data."""

    def make(stage, **changes):
        sources = [
            DataSource(str(data / "pictures.json"), str(data)),
            DataSource(str(data / "text.jsonl")),
        ]
        settings = {
            "output": str(tmp_path / "run"),
            "data": sources,
            "start": str(checkpoint),
            "batch_size": 4,
            "steps": 4,
            "trackers": [],
            "log_every": 1,
            "max_length": 64,
            # Off, as most tests are about other things.
            "evaluate": Evaluate(text_after_image=0),
        }
        return Recipe(stage=stage, **{**settings, **changes})

    return make


@pytest.fixture
def in_two(tmp_path):
    """A function of recipes and `break:N`: all of them in two processes."""

    def run(*entries):
        arguments = []
        for n, entry in enumerate(entries):
            arguments.append(entry)
            if not isinstance(entry, str):
                arguments[-1] = tmp_path / f"recipe-{n}.yaml"
                arguments[-1].write_text(entry.to_yaml())
        code, _, errors = run_ranks(2, SPREAD, *arguments, cwd=tmp_path, timeout=HANG)
        assert code == 0, errors[-3000:]

    return run
