"""A run with the attended router: one learner has a gate, a rate for it, and a figure."""

import torch

from wings.model.causal_lm import WingsForCausalLM
from wings.train.run import train


def test_one_learner_and_its_gain_are_trained(make_recipe, tmp_path):
    options = {"learners": ["image"], "router": "attended"}
    recipe = make_recipe(
        "instruct", freeze_llm=True, wings=options, steps=6, output=str(tmp_path / "two"),
        learning_rates={"router": 1e-2, "image_learners": 1e-2},
    )  # fmt: skip
    result = train(recipe)
    assert result.history[1]["rate/router"] > 0
    gates = [result.history[0][f"gate/image/{block}"] for block in (0, 1)]
    assert all(0 < gate < 1 for gate in gates) and "gate/text/0" not in result.history[0]
    model = WingsForCausalLM.from_pretrained(result.folder)
    for parameter in model.parameter_groups()["router"]:
        # A fresh learner is zero, so that its gain learns a step after it.
        assert parameter.shape == (1,)
        assert abs(torch.nn.functional.softplus(parameter).item() - 8.0) > 1e-4
    # The start does not record if its language model was trained, but a run that trains it does.
    assert model.config.llm_trained is None
    again = make_recipe("instruct", start=str(result.folder), steps=1)
    config = WingsForCausalLM.from_pretrained(train(again).folder).config
    assert config.router == "attended" and config.llm_trained is True
