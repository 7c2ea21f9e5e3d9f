"""The experiment's methods: their recipes and the parts that they train."""

import pytest
from tiny import tiny_model

from wings.examples.experiment.dataset import ExperimentSize
from wings.examples.experiment.methods import (
    ALIGNS,
    BY_KEY,
    METHODS,
    align_recipe,
    instruct_recipe,
    rates_of,
)
from wings.model.causal_lm import part_of
from wings.train.param_groups import prepare_groups

STEPS = 10


def test_keys_of_methods_are_unique():
    assert len(BY_KEY) == len(METHODS)
    assert {method.align for method in METHODS} <= set(ALIGNS)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.key)
def test_every_method_is_a_recipe_that_trains_what_it_says(method, tmp_path):
    recipe = instruct_recipe(method, 1e-3, 1, STEPS, tmp_path, tmp_path / "out", ExperimentSize())
    assert recipe.seed == 1
    assert recipe.steps == STEPS
    assert recipe.freeze_llm == (not method.trains_llm)
    assert recipe.learning_rates == rates_of(method, 1e-3)
    assert all(recipe.learning_rates[group] == 1e-3 for group in method.swept)
    assert list(method.rates) == sorted(method.rates)
    assert len(method.rates) >= 3
    align_recipe(method.align, tmp_path, ExperimentSize())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.key)
def test_every_method_trains_its_groups_and_no_other(method, tmp_path):
    if "lora" in method.keys:
        pytest.importorskip("peft")
    recipe = instruct_recipe(method, 1e-3, 1, STEPS, tmp_path, tmp_path / "out", ExperimentSize())
    model, _ = tiny_model(**{**recipe.wings, "learner_layers": None})
    prepare_groups(model, recipe)
    expected = {"projector", *method.swept, *(f"{name}_learners" for name in method.learners)}
    if len(method.learners) == 2 and method.wings["router"] is not None:
        expected.add("router")
    parts: dict[bool, set[str]] = {True: set(), False: set()}
    for name, parameter in model.named_parameters():
        # Adapters are inside the language model, whose own weights are frozen.
        parts[parameter.requires_grad].add("lora" if "lora_" in name else part_of(name))
    assert parts[True] == expected
    assert not parts[True] & parts[False]


def test_methods_differ_in_their_recipes(tmp_path):
    texts = set()
    for method in METHODS:
        recipe = instruct_recipe(
            method, 1e-3, 0, STEPS, tmp_path, tmp_path / "out", ExperimentSize()
        )
        texts.add(recipe.to_yaml())
    assert len(texts) == len(METHODS)
