"""Stages: what each of them trains, at which rate, and what it refuses."""

import pytest
import torch

from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor
from wings.train.build import is_llm_trained, load_model
from wings.train.param_groups import prepare_groups
from wings.train.recipe import Lora

BOTH = {"learners": ("image", "text"), "router": "position"}


def rates(plan):
    return {group.name: group.rate for group in plan.groups}


@pytest.fixture
def load(checkpoint):
    return lambda **changes: WingsForCausalLM.from_pretrained(checkpoint, **changes)


def test_align_trains_projector_and_visual_learners(load, make_recipe):
    model = load()
    plan = prepare_groups(model, make_recipe("align", learning_rates={"projector": 1e-4}))
    assert rates(plan) == {
        "vision_tower": None,
        "projector": 1e-4,
        "image_learners": 1e-3,
        "language_model": None,
    }
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all("projector" in name or ".wings.image" in name for name in trained)


def test_instruct_trains_all_but_the_tower(load, make_recipe):
    model = load(**BOTH)
    plan = prepare_groups(model, make_recipe("instruct"))
    assert rates(plan)["language_model"] == 2e-6 and rates(plan)["router"] == 1e-5
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen and all("vision_tower" in name for name in frozen)


def test_freeze_llm_leaves_the_llm_out(load, make_recipe):
    plan = prepare_groups(load(**BOTH), make_recipe("instruct", freeze_llm=True))
    assert rates(plan)["language_model"] is None and rates(plan)["text_learners"] == 1e-5


def test_the_table_names_groups_weights_and_rates(load, make_recipe):
    model = load(**BOTH)
    table = str(prepare_groups(model, make_recipe("instruct", freeze_llm=True)))
    lines = table.splitlines()
    assert lines[0] == "stage instruct"
    (llm,) = [line for line in lines if "language_model" in line]
    count = sum(p.numel() for p in model.parameter_groups()["language_model"])
    assert f"{count:,}" in llm and llm.endswith("frozen")
    (router,) = [line for line in lines if "router" in line]
    assert router.endswith("1.0e-05")
    everything = sum(p.numel() for p in model.parameters())
    assert lines[-1].endswith(f"of {everything:,}")


def test_every_trained_weight_is_in_one_optimiser_group(load, make_recipe):
    model = load(**BOTH)
    groups = prepare_groups(model, make_recipe("instruct")).optimizer_groups(weight_decay=0.1)
    seen = [id(p) for group in groups for p in group["params"]]
    assert sorted(seen) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    norm = model.model.language_model.layers[0].input_layernorm.weight
    for group in groups:
        holds_norm = any(p is norm for p in group["params"])
        assert not holds_norm or group["weight_decay"] == 0.0
        assert holds_norm or any(p.ndim > 1 for p in group["params"]) == (group["weight_decay"] > 0)


@pytest.mark.parametrize("options", [{}, {"text_guard": True}, {"router": "modality"}])
def test_text_only_batches_reach_every_trained_weight(load, make_recipe, checkpoint, options):
    """A rank whose batch has no picture takes part in every gradient sum, or all ranks wait."""
    model = load(**{**BOTH, **options})
    prepare_groups(model, make_recipe("instruct", freeze_llm=bool(options)))
    processor = WingsProcessor.from_pretrained(checkpoint)
    talk = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]
    row = {name: tensor[None] for name, tensor in processor.encode(talk).items()}
    model.train()(**row).loss.backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_a_rate_for_a_missing_group_is_refused(load, make_recipe):
    recipe = make_recipe("instruct", learning_rates={"text_learners": 1e-3})
    with pytest.raises(
        WingsError, match=r"learning_rates\.text_learners: this model has no such group"
    ):
        prepare_groups(load(), recipe)


def test_align_refuses_a_model_that_is_past_it(load, make_recipe):
    with pytest.raises(WingsError, match=r"Stage align trains .* this model has router"):
        prepare_groups(load(**BOTH), make_recipe("align"))


def test_weights_are_held_in_the_smallest_type_that_loses_nothing(load, make_recipe):
    model = load(dtype=torch.bfloat16).float()
    head, tower = model.lm_head.weight, model.model.vision_tower
    before = head.detach().clone()
    prepare_groups(model, make_recipe("align", bf16=True))
    assert model.model.projector.first.weight.dtype == torch.float32
    assert head.dtype == torch.bfloat16 and torch.equal(head.float(), before)
    prepare_groups(model, make_recipe("align"))
    assert head.dtype == torch.float32
    with torch.no_grad():
        head[0, 0] = 1.001
    prepare_groups(model, make_recipe("align", bf16=True))
    assert head.dtype == torch.float32
    assert next(tower.parameters()).dtype == torch.bfloat16


def test_a_checkpoint_of_two_types_is_read_as_it_was_stored(load, make_recipe, tmp_path):
    model = load(dtype=torch.bfloat16)
    prepare_groups(model, make_recipe("align", bf16=True))
    with torch.no_grad():
        model.model.projector.first.weight.fill_(1.001)
    model.save_pretrained(tmp_path / "mixed")
    again = load_model(make_recipe("instruct", start=str(tmp_path / "mixed")))
    assert again.model.projector.first.weight[0, 0].item() == pytest.approx(1.001, abs=1e-6)


def test_instruct_grows_a_stage_1_checkpoint(make_recipe):
    config = load_model(make_recipe("instruct")).config
    assert tuple(config.learners) == ("image", "text") and config.router == "position"
    config = load_model(make_recipe("instruct", wings={"router": "modality"})).config
    assert config.router == "modality"
    config = load_model(make_recipe("align")).config
    assert tuple(config.learners) == ("image",)


def test_a_router_that_is_there_is_kept(make_recipe, tmp_path, load):
    load(learners=("image", "text"), router="modality").save_pretrained(tmp_path / "later")
    model = load_model(make_recipe("instruct", start=str(tmp_path / "later")))
    assert model.config.router == "modality"


def test_learners_that_were_trained_are_not_dropped_in_silence(make_recipe):
    with pytest.raises(WingsError, match=r"wings\.learners: .* has trained image learners"):
        load_model(make_recipe("instruct", wings={"learners": []}))


def test_a_start_that_holds_nothing_is_named(make_recipe, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(WingsError, match=r"no config\.json; finish that run first"):
        load_model(make_recipe("instruct", start=str(tmp_path / "empty")))
    with pytest.raises(WingsError, match=r"there is no folder .*gone"):
        load_model(make_recipe("instruct", start=str(tmp_path / "gone")))
    with pytest.raises(WingsError, match=r"neither model .* nor start"):
        load_model(make_recipe("instruct", start=None))


@pytest.mark.parametrize(
    ("stage", "changes", "before", "after"),
    [
        ("align", {}, False, False),
        ("align", {}, None, None),
        ("align", {}, True, True),
        ("instruct", {}, False, True),
        ("instruct", {"freeze_llm": True}, False, False),
        ("instruct", {"trained_layers": ["q_proj"]}, False, True),
        # Merged adapters change the weights of a frozen model; those that stay adapters do not.
        ("instruct", {"lora": Lora()}, False, True),
        ("instruct", {"lora": Lora(guard=True)}, False, False),
    ],
)
def test_whether_the_language_model_was_trained_is_known(
    make_recipe, stage, changes, before, after
):
    assert is_llm_trained(make_recipe(stage, **changes), before) is after
