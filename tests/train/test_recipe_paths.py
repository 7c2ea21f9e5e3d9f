"""Paths of a recipe: relative to its file; a tree of them can be moved and read from anywhere."""

import os
import shutil
import typing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wings.errors import WingsError
from wings.records.source_files import source_files, source_folder
from wings.train.data.identity import identities
from wings.train.recipe import Recipe
from wings.train.recipe_paths import path_kind, same_place
from wings.train.recipe_yaml import read_yaml, write_yaml

RECIPE = """
stage: instruct
output: runs/two
start: runs/one
data:
  - {path: data/parts/*.jsonl, images: pictures}
  - {path: org/dataset, split: train}
  - {path: sets/own, split: train}
text_turns: {path: ../shared/text.jsonl, share: 0.5}
evaluate:
  data: [{name: held, path: data/held.jsonl}]
"""
FRESH = "stage: align\noutput: one\ndata: [{path: a.jsonl}]\nmodel: {vision: VISION, text: TEXT}"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A folder `tree/project` with a recipe and its data; the working folder is elsewhere."""
    project = tmp_path / "tree" / "project"
    for name in ("data/parts", "pictures", "runs/one", "sets/own", "../shared", "llm", "tower"):
        (project / name).mkdir(parents=True)
    for name in ("data/parts/1.jsonl", "data/parts/2.jsonl", "data/held.jsonl"):
        (project / name).write_text("{}")
    (project.parent / "shared" / "text.jsonl").write_text("{}")
    (project / "two.yaml").write_text(RECIPE)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return project


def paths(recipe):
    held = recipe.evaluate.data[0]
    first, _, own = recipe.data
    turns = recipe.text_turns.path
    return [recipe.output, recipe.start, first.path, first.images, own.path, turns, held.path]


@pytest.mark.parametrize("spelling", ["../tree/project", "{}", "../link"])
def test_paths_are_relative_to_the_file(tree, spelling, tmp_path):
    (tmp_path / "link").symlink_to(tree)
    recipe = Recipe.from_yaml(f"{spelling.format(tree)}/two.yaml")
    expected = [
        "runs/two", "runs/one", "data/parts/*.jsonl", "pictures", "sets/own",
        "../shared/text.jsonl", "data/held.jsonl",
    ]  # fmt: skip
    for path, name in zip(paths(recipe), expected, strict=True):
        assert same_place(path, str(tree / name)), (path, name)
        assert not os.path.isabs(path)
    assert recipe.data[1].path == "org/dataset"
    assert [file.name for file in source_files(recipe.data[0].path)] == ["1.jsonl", "2.jsonl"]


def test_in_its_own_folder_a_recipe_reads_as_written(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert paths(Recipe.from_yaml("two.yaml"))[:3] == ["runs/two", "runs/one", "data/parts/*.jsonl"]


def test_overrides_and_python_are_relative_to_the_working_folder(tree):
    changes = ["output=out", "data.0.path=mine.jsonl", "evaluate.data=[{name: x, path: h.json}]"]
    recipe = Recipe.from_yaml(tree / "two.yaml", changes)
    assert recipe.output == "out" and recipe.data[0].path == "mine.jsonl"
    assert recipe.evaluate.data[0].path == "h.json"
    assert same_place(recipe.data[0].images, str(tree / "pictures"))
    assert Recipe.from_dict({**recipe.to_dict(), "start": "a/b/c"}).start == "a/b/c"


def test_shipped_recipes_are_relative_to_the_working_folder(tree):
    from wings.train.recipe_file import find_recipe

    recipe = Recipe.from_yaml(find_recipe("emoji"))
    assert (recipe.output, recipe.start) == ("instruct", "align")


@pytest.mark.parametrize("text", ["./gone", "./org/gone"])
def test_a_path_where_nothing_is_becomes_no_name(tree, monkeypatch, text):
    """The Hub would be asked for a name."""
    monkeypatch.chdir(tree)
    Path("one.yaml").write_text(FRESH.replace("VISION", "ViT-B-32").replace("TEXT", text))
    recipe = Recipe.from_yaml("one.yaml")
    assert recipe.model.text == text
    assert f"text: {text}\n" in recipe.to_yaml(Path())


@pytest.mark.parametrize(
    ("vision", "text", "is_path"),
    [
        ("local-dir:tower", "llm", True),
        ("{model_name: local-dir:tower, image_size: 28}", "./llm", True),
        ("ViT-B-32/openai", "Qwen/Qwen2.5-0.5B", False),
        ("hf-hub:org/name", "gpt2", False),
        ("{model_name: ViT-B-32}", "~/llm", False),
        ("local-dir:/models/tower", "/models/llm", False),
        ("local-dir:~/tower", "weights/gone/llm", None),
    ],
)
def test_names_of_models_are_not_paths(tree, vision, text, is_path):
    file = tree / "one.yaml"
    file.write_text(FRESH.replace("VISION", vision).replace("TEXT", text))
    model, written = Recipe.from_yaml(file).model, read_yaml(vision, "vision")
    if is_path:
        tower = model.vision if isinstance(model.vision, str) else model.vision["model_name"]
        assert same_place(tower.removeprefix("local-dir:"), str(tree / "tower"))
        assert same_place(model.text, str(tree / "llm"))
    else:
        assert model.vision == written
        assert (model.text == text) == (is_path is not None)


def test_a_name_that_is_a_folder_only_from_here_is_refused(tree):
    Path("Qwen/small").mkdir(parents=True)
    (tree / "one.yaml").write_text(FRESH.replace("VISION", "x").replace("TEXT", "Qwen/small"))
    with pytest.raises(WingsError, match=r"model\.text: .* write \.\./.*/Qwen/small\.$"):
        Recipe.from_yaml(tree / "one.yaml")


def test_the_recipe_of_a_run_moves_with_its_tree(tree, tmp_path, monkeypatch):
    recipe = Recipe.from_yaml(tree / "two.yaml")
    run = tree / "runs" / "two"
    run.mkdir()
    (run / "recipe.yaml").write_text(recipe.to_yaml(recipe.output))
    assert "output: .\n" in (run / "recipe.yaml").read_text()
    assert Recipe.from_yaml(run / "recipe.yaml") == recipe
    before = identities(recipe, None)
    assert before["evaluate.data.0"]["files"].keys() == {"../../data/held.jsonl"}
    shutil.move(tmp_path / "tree", tmp_path / "far" / "away")
    moved = tmp_path / "far" / "away" / "project"
    monkeypatch.chdir(moved)
    again = Recipe.from_yaml("two.yaml")
    assert again.difference(Recipe.from_yaml("runs/two/recipe.yaml")) is None
    assert identities(again, None) == before
    monkeypatch.chdir(tmp_path)
    other = Recipe.from_yaml("far/away/project/two.yaml")
    assert other.difference(Recipe.from_yaml(moved / "runs/two/recipe.yaml")) is None
    assert identities(other, None) == before
    shutil.copytree(moved / "data", moved / "data2")
    changed = Recipe.from_yaml(
        moved / "two.yaml", [f"evaluate.data.0.path={moved}/data2/held.jsonl"]
    )
    assert "evaluate" in changed.difference(other)


def test_a_run_in_a_linked_folder_finds_its_data(tree, tmp_path):
    (tmp_path / "disk" / "deep" / "runs").mkdir(parents=True)
    shutil.rmtree(tree / "runs")
    (tree / "runs").symlink_to(tmp_path / "disk" / "deep" / "runs")
    recipe = Recipe.from_yaml(tree / "two.yaml")
    run = tree / "runs" / "two"
    run.mkdir()
    (run / "recipe.yaml").write_text(recipe.to_yaml(run))
    for file in (run / "recipe.yaml", run.resolve() / "recipe.yaml"):
        assert recipe.difference(Recipe.from_yaml(file)) is None
        assert len(source_files(Recipe.from_yaml(file).data[0].path)) == 2


def test_brackets_of_the_folder_are_no_pattern(tree, tmp_path):
    odd = tmp_path / "my [1] run*"
    shutil.move(tree, odd)
    recipe = Recipe.from_yaml(odd / "two.yaml", ["text_turns=null"])
    assert len(source_files(recipe.data[0].path)) == 2
    assert same_place(str(source_folder(recipe.data[0].path)), str(odd / "data" / "parts"))
    (odd / "runs" / "recipe.yaml").write_text(recipe.to_yaml(odd / "runs"))
    again = Recipe.from_yaml(odd / "runs" / "recipe.yaml")
    assert again == recipe and len(source_files(again.data[0].path)) == 2


def texts_of(cls, prefix=""):
    """Dotted names of the text fields that have no kind of path."""
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        is_text = str in (hint, *typing.get_args(hint)) and typing.get_origin(hint) is not dict
        if is_text and path_kind(hint) is None:
            yield name


def test_every_text_of_a_recipe_is_a_path_or_known_to_be_none():
    from wings.train import recipe_parts

    kinds = [one for one in vars(recipe_parts).values() if hasattr(one, "__dataclass_fields__")]
    texts = {name for kind in (Recipe, *kinds) for name in texts_of(kind)}
    assert texts == {"split", "subset", "name", "best"}


FOLDERS = st.lists(st.sampled_from(["a", "b c", "..", "ä", "[x]", "link"]), max_size=4)


@given(folders=st.tuples(FOLDERS, FOLDERS, FOLDERS, FOLDERS), is_absolute=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_folders_keep_the_same_places(tmp_path, monkeypatch, folders, is_absolute):
    """Wherever recipe, working folder, output and data are, reading back finds the same files."""
    cwd, file, out, path = folders
    root = tmp_path / "r" / "s" / "t" / "u"
    root.mkdir(parents=True, exist_ok=True)
    if not (root / "link").is_symlink():
        (tmp_path / "target" / "x" / "y").mkdir(parents=True)
        (root / "link").symlink_to(tmp_path / "target" / "x" / "y")

    def made(base, parts):
        place = base
        for part in parts:
            place = place / part
            place.mkdir(exist_ok=True)
        return place

    recipe_folder = made(root, file)
    data = made(recipe_folder, path)
    output = made(recipe_folder, out)
    (data / "d.jsonl").touch()
    monkeypatch.chdir(made(root, cwd))
    name = str(data / "d.jsonl") if is_absolute else "/".join([*path, "d.jsonl"])
    values = {"stage": "align", "output": "/".join([*out, "."]), "data": [{"path": name}]}
    (recipe_folder / "r.yaml").write_text(write_yaml(values))
    recipe = Recipe.from_yaml(recipe_folder / "r.yaml")
    assert same_place(recipe.data[0].path, str(data / "d.jsonl"))
    assert same_place(recipe.output, str(output))
    (output / "recipe.yaml").write_text(recipe.to_yaml(recipe.output))
    monkeypatch.chdir(made(root, out))
    again = Recipe.from_yaml(output / "recipe.yaml")
    assert again.difference(Recipe.from_yaml(recipe_folder / "r.yaml")) is None
    assert same_place(again.data[0].path, str(data / "d.jsonl"))
    assert same_place(again.output, str(output))
    assert os.path.isabs(again.data[0].path) == is_absolute
