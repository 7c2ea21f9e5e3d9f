"""The experiment's cells: their recipes, and the parts that they train."""

import pytest
from tiny import tiny_model

from wings.examples.experiment.cells import (
    BY_KEY,
    CELLS,
    CHEAP,
    FIRST,
    PRIMARY,
    STAGE_1,
)
from wings.examples.experiment.recipes import (
    Rates,
    align_recipe,
    group_rates,
    instruct_recipe,
)
from wings.examples.experiment.size import ExperimentSize
from wings.model.causal_lm import part_of
from wings.train.param_groups import prepare_groups

RATES = Rates(1e-3, 2e-3)


def instruct(cell, folder):
    return instruct_recipe(
        cell, RATES, 1, 7, folder, folder / "start", folder / "out", ExperimentSize()
    )


def test_the_first_block_is_two_branches_by_stages_by_gates():
    assert len(FIRST) == 8
    assert {tuple(cell.key.split("-")) for cell in FIRST} == {
        (branch, stages, gate)
        for branch in ("learner", "lora")
        for stages in ("both", "instruct")
        for gate in ("open", "attended")
    }
    assert set(PRIMARY) == {"learner-both-attended", "lora-both-attended"}
    # One sweep a branch, without a gate, in both stages.
    assert {cell.swept for cell in FIRST} == {"learner-both-open", "lora-both-open"}
    assert all(BY_KEY[cell.swept].swept == cell.swept for cell in BY_KEY.values())
    assert all(len(cell.rates) == 2 for cell in BY_KEY.values())


def test_the_rows_of_costs_are_learners_by_blocks_by_rank():
    found = {}
    for cell in CHEAP:
        wings = cell.stage_2["wings"]
        layers = wings["learner_layers"]
        shape = (len(wings["learners"]), layers[0], layers[-1], len(layers), wings["rank"])
        found.setdefault((*shape, wings.get("share_factors", False)), []).append(cell)
        assert wings["router"] == "attended" and wings["text_guard"] is True
        # Stage 1 trains the image learner that stage 2 goes on with.
        start = STAGE_1[cell.stage_1]["wings"]
        assert start["learners"] == ["image"] and start["learner_layers"] == layers
        assert start["rank"] == wings["rank"]
        both = len(wings["learners"]) == 2
        assert cell.swept == ("both-learners-attended" if both else "learner-both-open")
    blocks = {(0, 27, 10), (0, 29, 30), (0, 9, 10), (20, 29, 10)}
    grid = {(n, *where, rank, False) for n in (1, 2) for where in blocks for rank in (16, 64)}
    assert set(found) == grid | {(2, 0, 27, 10, rank, True) for rank in (16, 64)}
    assert all(len(cells) == 1 for cells in found.values())
    # Two of them are cells of the other studies.
    assert len(BY_KEY) == len(CELLS) + len(CHEAP) - 2
    assert {cell.key for cell in CHEAP if cell in CELLS} == {
        "learner-both-attended", "both-learners-attended"
    }  # fmt: skip


@pytest.mark.parametrize("cell", FIRST, ids=lambda cell: cell.key)
def test_a_cell_starts_from_the_stage_that_it_names(cell, tmp_path):
    branch, stages, gate = cell.key.split("-")
    assert cell.stage_1 == (branch if stages == "both" else "projector")
    keys = cell.stage_2
    if branch == "lora":
        assert keys["lora"]["stages"] == stages
        assert keys["lora"]["gate"] == (None if gate == "open" else gate)
        assert keys["lora"]["guard"] is True
        assert keys["wings"] == {"learners": []}
    else:
        assert keys["wings"]["router"] == (None if gate == "open" else gate)
        assert keys["wings"]["text_guard"] is True
        assert keys["freeze_llm"] is True


@pytest.mark.parametrize("cell", (*CELLS, *CHEAP[-1:]), ids=lambda cell: cell.key)
def test_every_cell_is_a_recipe_with_a_rate_for_every_group_that_it_trains(cell, tmp_path):
    recipe = instruct(cell, tmp_path)
    assert (recipe.seed, recipe.steps) == (1, 7)
    assert recipe.learning_rates == group_rates(cell.stage_2, 1e-3, 2e-3)
    assert recipe.freeze_llm == ("language_model" not in recipe.learning_rates)
    assert recipe.text_turns.share == 0.25
    options = dict(recipe.wings)
    for name in ("learner_layers", "rank"):
        options.pop(name, None)
    if recipe.lora is not None:
        options["lora"] = recipe.lora.options("instruct")
    model, _ = tiny_model(**options)
    plan = prepare_groups(model, recipe)
    assert {group.name: group.rate for group in plan.trained} == recipe.learning_rates
    trained = {part_of(name) for name, p in model.named_parameters() if p.requires_grad}
    assert trained == set(recipe.learning_rates)


@pytest.mark.parametrize("kind", [kind for kind in STAGE_1 if not kind.startswith("learner-")])
def test_every_stage_1_is_a_recipe_of_the_same_rates(kind, tmp_path):
    size = ExperimentSize()
    recipe = align_recipe(kind, RATES, 3, 9, tmp_path, tmp_path / "out", size)
    assert recipe.freeze_llm and (recipe.seed, recipe.steps) == (3, 9)
    assert recipe.learning_rates == group_rates(STAGE_1[kind], 1e-3, 2e-3)
    assert recipe.model.vision["image_size"] == 112


def test_no_two_cells_have_one_recipe(tmp_path):
    texts = {instruct(cell, tmp_path / cell.stage_1).to_yaml() for cell in BY_KEY.values()}
    assert len(texts) == len(BY_KEY)
