"""Runs whose adapters are kept: guard, gate and both stages, from recipe to checkpoint."""

import json

import pytest
import torch
from faults import killed_at
from safetensors.torch import load_file

from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.train.recipe import KLToBase, Lora, Recipe, TextTurns
from wings.train.run import train

KEPT = {"rank": 2, "guard": True, "gate": "attended", "stages": "both"}


@pytest.fixture(scope="module")
def plain_start(make_model, tmp_path_factory):
    """Folder of a checkpoint without learners."""
    folder = tmp_path_factory.mktemp("plain")
    for part in make_model(learners=()):
        part.save_pretrained(folder)
    return str(folder)


def weights(folder):
    return {name: t.clone() for name, t in load_file(f"{folder}/model.safetensors").items()}


def test_both_stages_train_one_set_of_adapters_and_the_gate_joins_in_the_second(
    plain_start, make_recipe, tmp_path
):
    plain = {"wings": {"learners": []}, "lora": Lora(**KEPT), "steps": 3}
    first = make_recipe(
        "align", start=plain_start, output=str(tmp_path / "one"), **plain,
        learning_rates={"lora": 1e-2},
    )  # fmt: skip
    one = train(first)
    before, after = weights(plain_start), weights(one.folder)
    moved = [n for n in after if n not in before or not torch.equal(after[n], before[n])]
    assert moved and all("projector" in name or "lora_" in name for name in moved)
    assert not any("lora_router" in name for name in after)
    assert any(after[name].any() for name in after if name.endswith("lora_b"))
    second = make_recipe(
        "instruct", start=str(one.folder), output=str(tmp_path / "two"), **plain,
        learning_rates={"lora": 1e-2, "router": 1e-2},
    )  # fmt: skip
    two = train(second)
    end = weights(two.folder)
    llm = [n for n in before if "language_model" in n or "lm_head" in n]
    assert llm and all(torch.equal(end[name], before[name]) for name in llm)
    assert sum("lora_router" in name for name in end) == 2
    model = WingsForCausalLM.from_pretrained(two.folder)
    assert model.config.adapters.gate == "attended" and model.config.adapters.guard
    assert two.history[1]["rate/lora"] > 0 and two.history[1]["rate/router"] > 0
    ids = torch.tensor([[5, 9, 11, 30]])
    with torch.no_grad():
        expected = WingsForCausalLM.from_pretrained(plain_start)(ids).logits
        assert torch.equal(model(ids).logits, expected)
    # A further run keeps and trains them, named or not.
    third = make_recipe(
        "instruct", start=str(two.folder), output=str(tmp_path / "three"), steps=1,
        wings={"learners": []}, freeze_llm=True,
    )  # fmt: skip
    assert WingsForCausalLM.from_pretrained(train(third).folder).config.adapters.rank == 2


def test_a_killed_run_goes_on_with_the_same_adapters(plain_start, make_recipe, tmp_path):
    options = {
        "start": plain_start, "wings": {"learners": []}, "steps": 4, "save_every": 2,
        "lora": Lora(rank=2, guard=True, gate="attended"),
    }  # fmt: skip
    whole = train(make_recipe("instruct", output=str(tmp_path / "whole"), **options))

    recipe = make_recipe("instruct", output=str(tmp_path / "again"), **options)
    with killed_at(3):
        train(recipe)
    again = train(recipe)
    expected = weights(whole.folder)
    for name, tensor in weights(again.folder).items():
        assert torch.equal(tensor, expected[name]), name


def test_kl_to_base_sees_the_bare_llm(plain_start, make_recipe, data):
    recipe = make_recipe(
        "instruct", start=plain_start, wings={"learners": []}, freeze_llm=True, steps=2,
        lora=Lora(rank=2, guard=True), kl_to_base=KLToBase(1.0), learning_rates={"lora": 1e-1},
        text_turns=TextTurns(str(data / "text.jsonl"), 1.0),
    )  # fmt: skip
    history = train(recipe).history
    # Fresh adapters say what the LLM says in the first step; the exchange before does the rest.
    assert history[0]["kl_to_base"] >= 0


def test_the_options_are_saved_as_json(plain_start, make_recipe):
    recipe = make_recipe(
        "instruct", start=plain_start, steps=1, wings={"learners": []},
        lora=Lora(rank=2, gate="image_tokens", targets=["q_proj", "down_proj"]),
    )  # fmt: skip
    folder = train(recipe).folder
    saved = json.loads((folder / "config.json").read_text())["lora"]
    assert saved["targets"] == ["q_proj", "down_proj"] and saved["guard"] and saved["rank"] == 2
    assert saved["gate"] == "image_tokens" and saved["layers"] == [0, 1]
    again = Recipe.from_yaml(folder / "recipe.yaml")
    assert again.lora == recipe.lora


@pytest.mark.parametrize(
    ("stage", "lora", "said"),
    [
        ("align", Lora(), "stage align trains adapters only with lora.stages: both"),
        ("align", Lora(guard=True), "stage align trains adapters only with lora.stages: both"),
        ("instruct", Lora(stages="both"), "has none; run stage align with the same lora first"),
    ],
)
def test_stages_that_do_not_meet_are_refused(stage, lora, said, make_recipe, plain_start):
    with pytest.raises(WingsError, match=said):
        train(make_recipe(stage, start=plain_start, wings={"learners": []}, lora=lora))


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        (Lora(rank=2, guard=True), "already has trained adapters; go on with them"),
        (Lora(rank=2), "already has trained adapters; go on with them"),
        (
            Lora(rank=3, guard=True, stages="both"),
            "rank: .* with 2, and the recipe has 3; set 2",
        ),
        (Lora(rank=2, stages="both", targets=["q_proj"]), "null, and the recipe has .'q_proj'.;"),
    ],
)
def test_adapters_that_a_checkpoint_has_are_not_replaced(
    lora, said, make_model, make_recipe, tmp_path
):
    model, processor = make_model(learners=())
    model.reconfigure(lora={"rank": 2})
    for part in (model, processor):
        part.save_pretrained(tmp_path / "start")
    recipe = make_recipe(
        "instruct", start=str(tmp_path / "start"), wings={"learners": []}, lora=lora
    )
    with pytest.raises(WingsError, match=said):
        train(recipe)


def test_kl_to_base_without_text_turns_has_no_effect_under_the_guard(make_recipe, plain_start):
    with pytest.raises(WingsError, match="kl_to_base: has no effect"):
        make_recipe(
            "instruct", start=plain_start, wings={"learners": []}, lora=Lora(guard=True),
            kl_to_base=KLToBase(1.0),
        )  # fmt: skip


@pytest.mark.parametrize("gate", ["open", "tanh", 1])
def test_an_unknown_gate_is_refused(gate):
    values = {"stage": "instruct", "output": "x", "data": [{"path": "d.jsonl"}], "start": "s/t"}
    with pytest.raises(WingsError, match=r"lora\.gate"):
        Recipe.from_dict({**values, "lora": {"gate": gate}})
