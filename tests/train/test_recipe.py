"""Recipes: what is read, what is refused, and with which words."""

import pytest
import yaml

from wings.errors import WingsError
from wings.train.recipe import DataSource, ModelNames, Recipe
from wings.train.recipe_yaml import read_yaml

GOOD = {
    "stage": "instruct",
    "output": "runs/x",
    "model": {"vision": "ViT-B-32", "text": "some/llm"},
    "data": [{"path": "a.json", "images": "pictures"}],
}


def test_a_recipe_survives_its_own_yaml(tmp_path):
    recipe = Recipe.from_dict(
        {**GOOD, "learning_rates": {"router": 1e-3}, "wings": {"learners": ["image"]}}
    )
    (tmp_path / "r.yaml").write_text(recipe.to_yaml(tmp_path))
    again = Recipe.from_yaml(tmp_path / "r.yaml")
    assert again == recipe
    assert again.learning_rates == {"router": 1e-3}
    assert again.data == [DataSource("a.json", "pictures")] and again.model == ModelNames(
        "ViT-B-32", "some/llm"
    )


def test_the_papers_rates_are_the_defaults():
    instruct = Recipe.from_dict({**GOOD, "learning_rates": {"router": 3e-4}})
    assert (instruct.learning_rate("language_model"), instruct.learning_rate("projector")) == (
        2e-6,
        1e-5,
    )
    assert instruct.learning_rate("router") == 3e-4 and instruct.freeze_llm is False
    align = Recipe.from_dict({**GOOD, "stage": "align"})
    assert align.learning_rate("projector") == 1e-3 and align.freeze_llm is True


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batchsize": 3}, ["r.yaml: batchsize", "did you mean 'batch_size'"]),
        ({"data": [{"path": "a.json", "image": "x"}]}, ["r.yaml: data.0.image", "'images'"]),
        ({"data": []}, ["r.yaml", "data: is empty"]),
        ({"data": "a.json"}, ["r.yaml: data", "a list", "'a.json'"]),
        ({"model": {"vision": "v"}}, ["r.yaml: model.text: is missing"]),
        ({"model": {"vision": 3, "text": "t"}}, ["r.yaml: model.vision", "3"]),
        ({"start": "runs/align"}, ["model.text: start has a language model too"]),
        ({"stage": "instruckt"}, ["r.yaml: stage", "did you mean 'instruct'"]),
        ({"batch_size": 2.5}, ["r.yaml: batch_size", "whole number", "2.5"]),
        ({"batch_size": True}, ["r.yaml: batch_size", "whole number"]),
        ({"batch_size": 0}, ["r.yaml: batch_size", "larger than 0"]),
        ({"device_batch_size": 5}, ["device_batch_size", "does not divide"]),
        ({"bf16": "yes please"}, ["r.yaml: bf16", "true or false"]),
        (
            {"learning_rates": {"projector": "fast"}},
            ["r.yaml: learning_rates.projector", "a number", "'fast'"],
        ),
        (
            {"learning_rates": {"projektor": 1e-3}},
            ["learning_rates.projektor", "did you mean 'projector'"],
        ),
        (
            {"learning_rates": {"vision_tower": 1e-3}},
            ["learning_rates.vision_tower", "frozen in both stages"],
        ),
        ({"learning_rates": {"router": -1e-3}}, ["learning_rates.router", "larger than 0"]),
        ({"freeze_llm": True, "learning_rates": {"language_model": 1e-6}}, ["freeze_llm is on"]),
        ({"stage": "align", "learning_rates": {"router": 1e-6}}, ["stage align does not train"]),
        ({"stage": "align", "freeze_llm": False}, ["never trains the LLM"]),
        ({"stage": "align", "wings": {"router": "position"}}, ["wings.router", "no router"]),
        ({"stage": "align", "wings": {"learners": ["image", "text"]}}, ["wings.learners"]),
        ({"wings": {"rnk": 4}}, ["wings.rnk", "did you mean 'rank'"]),
        ({"wings": {"image_token_id": 4}}, ["wings.image_token_id", "no such option"]),
        ({"on_bad_record": "ignore"}, ["r.yaml: on_bad_record", "'stop', 'skip'"]),
        ({"warmup_ratio": 30}, ["warmup_ratio", "share"]),
        ({"data": [{"path": "a.json", "limit": 0}]}, ["data.0.limit", "larger than 0"]),
    ],
)
def test_a_bad_value_is_refused_with_file_and_key(tmp_path, change, words):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({**GOOD, **change}))
    with pytest.raises(WingsError) as error:
        Recipe.from_yaml(tmp_path / "r.yaml")
    assert str(error.value).startswith(str(tmp_path / "r.yaml"))
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_keys_files_and_broken_yaml(tmp_path):
    with pytest.raises(WingsError, match="no such recipe"):
        Recipe.from_yaml(tmp_path / "none.yaml")
    (tmp_path / "r.yaml").write_text("stage: [align\n")
    with pytest.raises(WingsError, match="not readable as YAML"):
        Recipe.from_yaml(tmp_path / "r.yaml")
    (tmp_path / "r.yaml").write_text("- a\n")
    with pytest.raises(WingsError, match="expected keys and values"):
        Recipe.from_yaml(tmp_path / "r.yaml", ["stage=align"])
    with pytest.raises(WingsError, match="'output' is missing"):
        Recipe.from_dict({"stage": "align", "data": GOOD["data"]})


def test_overrides_reach_into_mappings_and_lists(tmp_path):
    (tmp_path / "r.yaml").write_text(
        yaml.safe_dump({**GOOD, "learning_rates": None, "steps": None})
    )
    words = ["learning_rates.projector=1e-4", "data.0.path=b.json", "steps=7", "wings.router=null"]
    recipe = Recipe.from_yaml(tmp_path / "r.yaml", words)
    assert recipe.learning_rates == {"projector": 1e-4} and recipe.data[0].path == "b.json"
    assert recipe.steps == 7 and recipe.wings == {"router": None}
    for text, word in [
        ("steps", "key=value"),
        ("data.1.path=x", "a list of length 1"),
        ("stage.x=1", "'x'"),
    ]:
        with pytest.raises(WingsError, match=word):
            Recipe.from_yaml(tmp_path / "r.yaml", [text])


def test_only_what_changes_the_result_makes_another_run():
    recipe = Recipe.from_dict(GOOD)
    same = Recipe.from_dict({**GOOD, "workers": 3, "save_every": 9, "device_batch_size": 4})
    assert recipe.difference(same) is None
    other = Recipe.from_dict({**GOOD, "seed": 1})
    assert recipe.difference(other) == "seed 1 (now 0)"


def test_tuples_from_python_equal_lists_from_yaml():
    recipe = Recipe("instruct", "x", [DataSource("a.json")], wings={"learners": ("image", "text")})
    assert Recipe.from_dict(read_yaml(recipe.to_yaml(), "r.yaml")) == recipe
