"""The prefix as a baseline of training: its rate, its stage, what a run changes and keeps."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.train.build import load_model
from wings.train.estimate.budget import Budget
from wings.train.estimate.meta_model import ModelSpec
from wings.train.metrics.flops import Flops
from wings.train.param_groups import prepare_groups
from wings.train.recipe import DataSource
from wings.train.run import train

BASELINE = {"learners": [], "prefix_length": 4}


def weights(folder):
    tensors = load_file(Path(folder) / "model.safetensors")
    return {name: tensor.clone() for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def aligned(make_model, tmp_path_factory):
    """A plain projector model after stage align."""
    folder = tmp_path_factory.mktemp("aligned")
    for part in make_model(learners=(), router=None):
        part.save_pretrained(folder)
    return str(folder)


def test_a_frozen_language_model_learns_projector_and_prefix_alone(
    aligned, make_recipe, tmp_path, capsys
):
    one = train(make_recipe("align", start=aligned, output=str(tmp_path / "one")))
    assert not any("prefix" in name for name in weights(one.folder))
    recipe = make_recipe(
        "instruct", start=str(one.folder), freeze_llm=True, wings=BASELINE, steps=8,
        output=str(tmp_path / "two"), learning_rates={"prefix": 3e-2},
    )  # fmt: skip
    two = train(recipe)
    assert "prefix" in capsys.readouterr().out
    assert two.history[1]["rate/prefix"] > two.history[1]["rate/projector"] > 0
    before, after = weights(one.folder), weights(two.folder)
    fresh = {name for name in after if name not in before}
    blocks = [f"model.language_model.layers.{n}.self_attn.wings.prefix." for n in (0, 1)]
    assert fresh == {block + part for block in blocks for part in ("keys", "values", "gates")}
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(name.startswith("model.projector.") for name in moved)
    model = WingsForCausalLM.from_pretrained(two.folder)
    assert model.config.prefix_length == 4 and model.config.learners == ()
    untrained = load_model(recipe)
    for name, parameter in model.named_parameters():
        if ".prefix." in name:
            # Keys and values too: behind the gates, which open in the first step.
            assert not torch.equal(parameter, untrained.get_parameter(name)), name
            assert parameter.dtype == torch.float32


def test_it_has_a_rate_of_its_own_beside_learners(checkpoint, make_recipe):
    model = load_model(make_recipe("instruct", wings={"prefix_length": 4}))
    plan = prepare_groups(model, make_recipe("instruct", freeze_llm=True))
    rates = {group.name: group.rate for group in plan.groups}
    assert rates["prefix"] == 1e-3 and rates["image_learners"] == 1e-5
    assert "prefix" in str(plan)
    groups = plan.optimizer_groups(weight_decay=0.1)
    decays = {g["weight_decay"] for g in groups if g["name"] == "prefix"}
    # Gates have one dimension: decay would pull them shut.
    assert decays == {0.0, 0.1}


def test_stage_align_has_none(make_recipe, aligned, tmp_path):
    with pytest.raises(WingsError, match=r"wings\.prefix_length: stage align has no prefix"):
        make_recipe("align", wings={"prefix_length": 4})
    with pytest.raises(WingsError, match=r"learning_rates\.prefix: stage align does not train"):
        make_recipe("align", learning_rates={"prefix": 1e-3})
    model = WingsForCausalLM.from_pretrained(aligned, prefix_length=4)
    with pytest.raises(WingsError, match=r"this model has prefix; train it in stage instruct"):
        prepare_groups(model, make_recipe("align"))


def test_a_prefix_that_was_trained_is_kept_or_refused(make_recipe, aligned, tmp_path):
    later = str(tmp_path / "later")
    WingsForCausalLM.from_pretrained(aligned, prefix_length=4).save_pretrained(later)
    assert load_model(make_recipe("instruct", start=later)).config.prefix_length == 4
    for other in (0, 6):
        recipe = make_recipe("instruct", start=later, wings={"prefix_length": other})
        with pytest.raises(
            WingsError, match=r"wings\.prefix_length: .* has trained a prefix of 4 keys"
        ):
            load_model(recipe)


def test_it_is_planned_and_counted(make_recipe, aligned):
    recipe = make_recipe("instruct", start=aligned, freeze_llm=True, wings=BASELINE)
    budget = Budget(recipe, ModelSpec.of(recipe), 1, 80.0)
    (group,) = [group for group in budget.groups if group.name == "prefix"]
    # Keys and values of 2 heads of width 8, and a gate for each of 4 heads, in 2 blocks.
    assert group.count == 2 * (2 * 2 * 4 * 8 + 4) and group.rate == 1e-3
    plain = make_recipe("instruct", start=aligned, freeze_llm=True, wings={"learners": []})
    less = Budget(plain, ModelSpec.of(plain), 1, 80.0)
    assert budget.flops_per_token(False) > less.flops_per_token(False)
    model = load_model(recipe)
    model.model.language_model.requires_grad_(False)
    more = Flops.of(model).token - Flops.of(load_model_like(model)).token
    assert more == 3 * 4 * 4 * 8 * 4 * 2


def load_model_like(model):
    """The same model without its prefix."""
    bare = type(model)(type(model.config)(**{**model.config.to_dict(), "prefix_length": 0}))
    bare.model.language_model.requires_grad_(False)
    return bare


def test_text_only_batches_reach_every_weight_of_it(make_recipe, aligned, data):
    recipe = make_recipe(
        "instruct", start=aligned, freeze_llm=True, wings=BASELINE,
        data=[DataSource(str(data / "text.jsonl"))],
    )  # fmt: skip
    assert all(0 < loss < 20 for loss in train(recipe).losses)
