"""Recipes: every key with values of every other type, numbers out of range, broken YAML."""

import dataclasses
import datetime
import types
import typing
from typing import Literal

import pytest
import yaml

from wings.errors import WingsError
from wings.train.recipe import Recipe
from wings.train.recipe_values import override
from wings.train.recipe_yaml import read_yaml

BASE = {
    "stage": "instruct",
    "output": "runs/x",
    "model": {"vision": "ViT-B-32", "text": "some/llm"},
    "data": [{"path": "a.json", "images": "pictures"}],
    "text_turns": {"path": "t.jsonl", "share": 0.5},
    "lora": {"rank": 4},
    "kl_to_base": {"weight": 1.0},
    "video_sampling": {"max_frames": 4},
    "feature_cache": "features",
    "loss_chunk": 7,
    "limits": {"url_seconds": 3.0},
    "evaluate": {
        "data": [{"name": "text", "path": "h.jsonl"}],
        "stop": {"name": "text", "rise": 0.1},
    },
}
VALUES = [
    None, True, False, 0, 3, -1, 2**80, 10**400, 2.5, float("nan"), float("inf"), float("-inf"),
    1e300, "", "  ", "no", "word", "a\x00b", "\x1b[2J", "\ud800", [], [1], ["a"], [[]], {},
    {"a": 1}, {1: 2}, b"x", {"a"}, datetime.date(2026, 1, 1),
]  # fmt: skip


def dataclasses_in(kind, entry=()):
    """(dataclass, index in a list) of every dataclass in a type."""
    if dataclasses.is_dataclass(kind):
        yield kind, entry
    for inner in typing.get_args(kind):
        in_list = typing.get_origin(kind) is list
        yield from dataclasses_in(inner, (0,) if in_list else entry)


def fields_of(cls, place=()):
    """(path of keys, type) of every field that can be reached."""
    for name, kind in typing.get_type_hints(cls).items():
        yield (*place, name), kind
        for inner, entry in dataclasses_in(kind):
            yield from fields_of(inner, (*place, name, *entry))


FIELDS = dict(fields_of(Recipe))


def is_of(kind, value):
    """True if a person may write this value for the type, whatever its bounds."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(is_of(one, value) for one in arguments)
    if origin is Literal:
        return value in arguments
    if kind is type(None):
        return value is None
    if kind is bool:
        return isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is str:
        return isinstance(value, str) and value.strip() != "" and value.isprintable()
    if origin is list:
        return isinstance(value, list) and all(is_of(arguments[0], one) for one in value)
    if origin is dict:
        return isinstance(value, dict)
    return isinstance(value, dict)


def changed(path, value):
    """`BASE` with one value in another place."""
    values = yaml.safe_load(yaml.safe_dump(BASE))
    place = values
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return values


def refused(make):
    """The sentence of a `WingsError`, which is one line that can be printed; None without one."""
    try:
        made = make()
    except WingsError as error:
        sentence = str(error)
        assert "\n" not in sentence and len(sentence) < 700 and sentence.endswith("."), sentence
        sentence.encode()
        return sentence
    assert Recipe.from_dict(read_yaml(made.to_yaml(), "r.yaml")) == made
    return None


def test_the_walk_reaches_every_dataclass():
    assert {len(path) for path in FIELDS} >= {1, 2, 3, 4}
    for path in (
        ("data", 0, "limit"), ("evaluate", "stop", "rise"), ("limits", "image_pixels"),
        ("evaluate", "data", 0, "name"), ("lora", "rank"), ("model", "vision"),
    ):  # fmt: skip
        assert path in FIELDS, path


@pytest.mark.parametrize("path", FIELDS, ids=lambda path: ".".join(map(str, path)))
def test_a_value_of_another_type_is_refused_with_its_key(path):
    kind, key = FIELDS[path], ".".join(map(str, path))
    for value in VALUES:
        sentence = refused(lambda value=value: Recipe.from_dict(changed(path, value), "r.yaml"))
        if value is not None and not is_of(kind, value):
            assert sentence and sentence.startswith(f"r.yaml: {key}"), (value, sentence)
        if isinstance(value, int | float) and not abs(value) < 1e308:
            assert sentence, f"{key}: {value!r} was taken"


@pytest.mark.parametrize("name", [path[0] for path in FIELDS if len(path) == 1])
def test_values_given_in_python_are_typed_too(name):
    recipe = Recipe.from_dict(BASE)
    for value in VALUES:
        if value is not None and not is_of(FIELDS[name,], value):
            sentence = refused(lambda value=value: dataclasses.replace(recipe, **{name: value}))
            assert sentence and name in sentence, (value, sentence)


@pytest.mark.parametrize(
    "text",
    [
        "seed=4294967296", "batch_size=1000000000", "workers=3000", "epochs=.nan", "epochs=.inf",
        "warmup_ratio=.nan", "weight_decay=.inf", "data.0.weight=.inf", "data.0.share=.nan",
        "data.0.limit=-3", "data.0.shuffle_buffer=10000000000", "max_grad_norm=.nan",
        "learning_rates.router=.inf", "learning_rates.router=1e9", "kl_to_base.weight=.nan",
        "text_turns.share=.nan", "lora.dropout=.nan", "lora.alpha=.inf", "lora.rank=a",
        "evaluate.every=0", "evaluate.stop.rise=.nan", "limits.image_bytes=0",
        "limits.url_seconds=.inf", "limits.private_addresses=maybe", "wings.text_guard='no'",
        "wings.rank=a", "wings.rank=0", "wings.rank=1e3", "wings.learners=5",
        "wings.prefix_length=-1",
        "wings.learners=[image, image]", "wings.router=3", "wings.init_std=.nan",
        "wings.learner_layers=[0, a]", "wings.router_positions=.inf", "wings.normalize_sources=1",
        "steps=!!python/object/apply:os.system ['true']", "steps=!!timestamp x", "steps=[1,",
        "steps=2001-99-99", "steps='", "steps=\t:", "steps={[a]: 1}", "output=!!binary AA==",
        "steps=&a [*a]", "data.²=1", "data.-1.path=x", "=1", "steps", "data..path=x",
        "stage.x.y=1", "output=''", "trackers=['']", "wings={rank: 1, rank: 2}",
        "steps=" + "[" * 3000,
    ],
)  # fmt: skip
def test_an_override_out_of_bounds_is_refused(tmp_path, text):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(BASE))
    sentence = refused(lambda: Recipe.from_yaml(tmp_path / "r.yaml", [text]))
    assert sentence, "it was taken"


@pytest.mark.parametrize(
    "text",
    [
        "stage: align\nstage: instruct\n", "!!python/name:os.system", "a: [", "\x00", "a: \x07",
        "- &a [x, x]\n- [*b]", "%YAML 9.9", "? [a]\n: b", "a: b: c", "\t- a", "{" * 5000,
        "stage: !!python/tuple [1]", "&a {a: *a}", "1: 2", "", "null", "3", "[]",
    ],
)  # fmt: skip
def test_broken_yaml_is_one_sentence(tmp_path, text):
    (tmp_path / "r.yaml").write_text(text)
    sentence = refused(lambda: Recipe.from_yaml(tmp_path / "r.yaml"))
    assert sentence and "r.yaml" in sentence


def test_aliases_that_multiply_are_refused():
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(WingsError, match="more than 100,000 values"):
        read_yaml("\n".join(levels), "r.yaml")
    few = read_yaml("a: &a [1, 2]\nb: *a", "r.yaml")
    assert few == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize("name", ["gone.yaml", ".", "x" * 5000, "a\x00b", "latin.yaml"])
def test_recipe_files_that_cannot_be_read(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("stage: é".encode("latin-1"))
    assert refused(lambda: Recipe.from_yaml(name))


def test_an_override_changes_nothing_where_it_is_refused():
    values = {"data": [{"path": "a"}], "stage": "align"}
    for text in ("data.1.path=x", "stage.a=1", "stage=[", "data.0=&a [*a]"):
        with pytest.raises(WingsError):
            override(values, text)
    assert values == {"data": [{"path": "a"}], "stage": "align"}
