"""The reference of recipe keys: complete, true, on the page, and a schema that agrees with us."""

import copy
import json
import re
from pathlib import Path

import pytest

import wings
from wings.cli import main
from wings.errors import WingsError
from wings.train.recipe import Recipe
from wings.train.recipe_file import SHIPPED, shipped_recipes
from wings.train.recipe_reference import recipe_keys, recipe_schema, reference_page
from wings.train.recipe_yaml import read_yaml

PAGE = Path(wings.__file__).parents[1] / "docs" / "recipe.md"
LEAST = {"stage": "align", "output": "x", "data": [{"path": "d.jsonl"}], "start": "org/name"}


def test_the_page_is_made_from_the_code():
    assert PAGE.read_text(encoding="utf-8") == reference_page(), (
        'run: python -c "from wings.train.recipe_reference import reference_page as p; '
        "print(p(), end='')\" > docs/recipe.md"
    )


def test_every_key_has_a_meaning_and_the_default_that_holds():
    keys = {key.path: key for key in recipe_keys()}
    assert len(keys) == len(recipe_keys()) > 60
    made = Recipe.from_dict(LEAST).to_dict()
    for path, key in keys.items():
        assert re.fullmatch(r"[A-Z`\"\[].{8,}\.", key.text), path
        is_number = key.type.startswith(("a number", "a whole number"))
        assert is_number or not key.unit, path
        parts = path.split(".")
        if len(parts) > 1 or key.default is None or path in (*LEAST, "freeze_llm"):
            continue
        default = read_yaml(key.default, path)
        assert Recipe.from_dict({**LEAST, path: default}).to_dict()[path] == made[path], path


def test_keys_show_units_paths_and_the_defaults_of_both_stages():
    keys = {key.path: key for key in recipe_keys()}
    assert keys["max_length"].unit == "tokens" and keys["limits.url_seconds"].unit == "seconds"
    assert keys["evaluate.stop.rise"].unit == "nats per token"
    assert keys["output"].type == "a path" and keys["start"].type == "a path or a name"
    assert keys["wings.learners"].default == "align [image], instruct [image, text]"
    assert keys["wings.router"].default == "align null, instruct position"
    for key in keys.values():
        assert max(map(len, str(key).splitlines())) <= 80, key.path


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_follow_the_schema(name):
    jsonschema = pytest.importorskip("jsonschema")
    values = read_yaml((SHIPPED / f"{name}.yaml").read_text(encoding="utf-8"), name)
    jsonschema.validate(values, recipe_schema())
    wrong = copy.deepcopy(values)
    wrong["learnig_rates"] = {}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, recipe_schema())


def test_schema_and_recipe_refuse_the_same_keys():
    """Every key of the schema is one that a recipe takes or says to be in the wrong place."""
    properties = recipe_schema()["properties"]
    assert set(properties) == {key.path for key in recipe_keys() if "." not in key.path}
    for group in ("wings", "learning_rates"):
        assert properties[group]["additionalProperties"] is False
        listed = {k.path.split(".")[1] for k in recipe_keys(f"{group}.")}
        assert set(properties[group]["properties"]) == listed
    for name in properties["wings"]["properties"]:
        try:
            Recipe.from_dict({**LEAST, "stage": "instruct", "wings": {name: None}})
        except WingsError as error:
            assert "no such option" not in str(error)


def test_the_command_prints_keys_and_schema(capsys):
    assert main(["train", "--keys", "lora."]) == 0
    out = capsys.readouterr().out
    assert out.startswith("lora.rank: a whole number; default 16") and "batch_size" not in out
    assert main(["train", "--keys"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(not line.startswith(" ") for line in lines) == len(recipe_keys())
    assert main(["train", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == recipe_schema()
    assert main(["train", "--keys", "lorra"]) == 2
    assert "No recipe key begins with 'lorra'" in capsys.readouterr().err
    assert main(["train"]) == 2
    assert "Name a recipe" in capsys.readouterr().err
