"""Keys of `wings` and `lora` against what a start was trained with: every key, several starts."""

import pytest
import torch
from safetensors.torch import load_file

from wings.config import WingsConfig
from wings.errors import WingsError
from wings.train.build import load_model, start_options
from wings.train.recipe import Lora
from wings.train.recipe_validation import wings_options
from wings.train.run import train

# Other values of every key that a recipe may have.
VALUES = {
    "rank": (2, 4, 8),
    "router": ("position", "modality", "attended", None),
    "learner_form": ("lorra", "cross_attention"),
    "learners": ([], ["image"], ["text"], ["image", "text"]),
    "share_factors": (True, False),
    "learner_layers": ([0], [1], [1, 0], None),
    "prefix_length": (0, 3, 4),
    "normalize_sources": (True, False),
    "init_std": ("scaled", 0.5),
    "projector": ("mlp2x_gelu",),
    "text_guard": (True, False),
    "router_positions": (64, 4096),
    "gate_shape": ("tanh", "hill"),
    "gate_power": (2.0, 8.0),
    "gate_detach": (True, False),
    "senses_rule": ("sum", "mean"),
}
STARTS = {
    "plain": {"learners": ()},
    "stage 1": {"learners": ("image",), "router": None},
    "position": {},
    "hill": {"router": "attended", "gate_shape": "hill", "share_factors": True},
    "prefix": {"learners": (), "prefix_length": 3, "learner_layers": (1,)},
    "one block": {"learner_layers": (0,), "router": "modality", "normalize_sources": True},
    "adapters": {"learners": (), "lora": {"rank": 2, "gate": "attended", "targets": ["q_proj"]}},
}


@pytest.fixture(scope="module")
def starts(make_model, tmp_path_factory):
    """Folders of the starts."""
    folders = {}
    for name, options in STARTS.items():
        folders[name] = str(tmp_path_factory.mktemp("start"))
        for part in make_model(**options):
            part.save_pretrained(folders[name])
    return folders


def shown(value):
    if isinstance(value, tuple | list):
        return str(list(value))
    return {None: "null", True: "true", False: "false"}.get(value, str(value))


def test_every_key_has_values_here():
    assert sorted(VALUES) == sorted(wings_options())


@pytest.mark.parametrize("start", STARTS)
def test_a_key_is_refused_with_both_values_or_keeps_every_tensor(starts, make_recipe, start):
    """A contradiction is found in config.json; a model of all else has the start's weights."""
    folder, fitting = starts[start], {}
    config = WingsConfig.from_pretrained(folder)
    for key, values in VALUES.items():
        for value in values:
            recipe = make_recipe("instruct", start=folder, wings={**keys_of(config), key: value})
            try:
                start_options(recipe)
            except WingsError as error:
                sentence = str(error)
                assert sentence.startswith(f"wings.{key}: {folder} has")
                assert sentence.endswith(".") and "\n" not in sentence and "; " in sentence
                assert (
                    key in ("learners", "prefix_length") or f"has {shown(value)}; set" in sentence
                )
                assert key in REFUSED[start]
            else:
                fitting.setdefault(key, []).append(value)
    assert {key for key in VALUES if len(fitting[key]) < len(VALUES[key])} == REFUSED[start]
    tensors = load_file(f"{folder}/model.safetensors")
    # Every fitting value is in one of a few models.
    for number in range(max(map(len, fitting.values()))):
        wings = {key: values[number % len(values)] for key, values in fitting.items()}
        model = load_model(make_recipe("instruct", start=folder, wings=wings))
        weights = dict(model.named_parameters(remove_duplicate=False))
        assert all(torch.equal(weights[name], tensor) for name, tensor in tensors.items())


# Keys of which one of the values above contradicts the start.
LEARNERS = {"rank", "learner_form", "learners", "learner_layers", "normalize_sources"}
REFUSED = {
    "plain": set(),
    "stage 1": LEARNERS,
    "position": {*LEARNERS, "share_factors", "router", "router_positions"},
    "hill": {*LEARNERS, "share_factors", "router", "gate_shape", "gate_power"},
    "prefix": {"prefix_length", "learner_layers"},
    "one block": {*LEARNERS, "share_factors", "router"},
    "adapters": {"gate_shape"},
}


def keys_of(config):
    """The learners of a start, which stage instruct would add to."""
    return {"learners": list(config.learners)}


@pytest.mark.parametrize(
    ("key", "value", "old"),
    [
        ("rank", 4, "2"),
        ("alpha", 8.0, "32.0"),
        ("targets", ["k_proj"], "['q_proj']"),
        ("gate", "image_tokens", "attended"),
    ],
)
def test_adapters_that_contradict_the_start(starts, make_recipe, key, value, old):
    same = {"rank": 2, "gate": "attended", "targets": ["q_proj"], "stages": "both"}
    wings = {"learners": []}
    start = starts["adapters"]
    recipe = make_recipe("instruct", start=start, wings=wings, lora=Lora(**{**same, key: value}))
    with pytest.raises(WingsError) as error:
        start_options(recipe)
    assert str(error.value).startswith(
        f"lora.{key}: {start} has adapters trained with {old}, and the recipe has {value}; set"
    )
    start_options(make_recipe("instruct", start=start, wings=wings, lora=Lora(**same)))


def test_a_run_is_refused_before_its_data_are_read(starts, make_recipe, tmp_path):
    recipe = make_recipe("instruct", start=starts["position"], wings={"rank": 8})
    recipe.data[0].path = str(tmp_path / "missing.json")
    with pytest.raises(WingsError, match=r"wings\.rank: .* with 4, and the recipe has 8; set"):
        train(recipe)
    assert not (tmp_path / "run").exists()
