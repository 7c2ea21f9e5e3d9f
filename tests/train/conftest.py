"""A tiny Wings checkpoint and tiny data for the training tests, made once a session."""

import json

import pytest
from tiny import records, tiny_model

from wings.train.recipe import DataSource, Evaluate, Recipe


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
