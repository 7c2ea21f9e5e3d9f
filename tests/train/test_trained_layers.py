"""`trained_layers`: a fine-tune of some of the LLM's layers."""

import pytest
import torch
from safetensors.torch import load_file

from wings.errors import WingsError
from wings.train.recipe import Lora, Recipe
from wings.train.run import train

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


def weights(folder):
    return {name: t.clone() for name, t in load_file(f"{folder}/model.safetensors").items()}


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("names", [ATTENTION, ["gate_proj", "mlp.up_proj"], ["input_layernorm"]])
def test_the_named_layers_move_and_no_others(names, bf16, checkpoint, make_recipe):
    recipe = make_recipe(
        "instruct", trained_layers=names, steps=3, bf16=bf16, learning_rates={"language_model": 0.1}
    )
    before, after = weights(checkpoint), weights(train(recipe).folder)
    llm = {name for name in before if "language_model" in name or "lm_head" in name}
    llm -= {name for name in llm if ".wings." in name}
    moved = {name for name in llm if not torch.equal(before[name], after[name].to(before[name]))}
    assert moved == {name for name in llm if any(f"{n}.weight" in name for n in names)}
    assert Recipe.from_yaml(recipe.output + "/recipe.yaml").trained_layers == names


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trained_layers": ["q_prj"]}, "has no layer 'q_prj' with weights; it has.*q_proj"),
        ({"trained_layers": []}, "trained_layers: is empty"),
        ({"trained_layers": ["q_proj"], "freeze_llm": True}, "trained_layers: the LLM is frozen"),
        ({"trained_layers": ["q_proj"], "lora": Lora()}, "trained_layers: the LLM is frozen"),
        ({"trained_layers": ["q_proj"], "stage": "align"}, "trained_layers: the LLM is frozen"),
    ],
)
def test_names_without_effect_are_refused(changes, said, make_recipe):
    with pytest.raises(WingsError, match=said):
        train(make_recipe(changes.pop("stage", "instruct"), **changes))
