"""LoRA on the language model: what is trained, what a killed run goes on with, what is saved."""

import copy
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from forked import Program
from PIL import Image
from safetensors.torch import load_file

from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor
from wings.train.lora import adapters, merge_adapters
from wings.train.param_groups import prepare_groups
from wings.train.recipe import Lora, Recipe
from wings.train.run import train
from wings.train.run_folder import RunFolder

pytest.importorskip("peft")

BOTH = {"learners": ("image", "text"), "router": "position"}
QUICK = {"lora": Lora(rank=4), "learning_rates": {"lora": 1e-2, "image_learners": 1e-2}}


def weights(folder):
    tensors = load_file(Path(folder) / "model.safetensors")
    return {name: tensor.clone() for name, tensor in tensors.items()}


def batch(checkpoint):
    processor = WingsProcessor.from_pretrained(checkpoint)
    picture = Image.new("RGB", (40, 40), "red")
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "?"}]
    talk = [{"role": "user", "content": content}, {"role": "assistant", "content": "red"}]
    return {name: t[None] if t.ndim < 3 else t for name, t in processor.encode(talk).items()}


def doubled(row):
    """A batch with its pictures in float64."""
    return {name: t.double() if t.is_floating_point() else t for name, t in row.items()}


@pytest.mark.parametrize("router", ["position", "modality"])
def test_adapters_hang_beside_the_llm_and_nothing_else(checkpoint, make_recipe, router):
    model = WingsForCausalLM.from_pretrained(checkpoint, **{**BOTH, "router": router}).eval()
    row = batch(checkpoint)
    with torch.no_grad():
        before = model(**row).logits
    plan = prepare_groups(model, make_recipe("instruct", lora=Lora(rank=4)))
    with torch.no_grad():
        assert torch.equal(model(**row).logits, before)
    rates = {group.name: group.rate for group in plan.groups}
    assert rates["language_model"] is None and rates["lora"] == 1e-4 and rates["router"] == 1e-5
    names = {id(p): name for name, p in model.named_parameters()}
    (own,) = [group.parameters for group in plan.groups if group.name == "lora"]
    assert len(own) == 2 * 7 * 2 and all(p.requires_grad for p in own)
    assert not any(".wings." in names[id(p)] or "vision" in names[id(p)] for p in own)
    # Learners and router stay what they were: whole, and in groups of their own.
    trained = {
        names[id(p)] for group in plan.trained if group.name != "lora" for p in group.parameters
    }
    assert trained and not any("lora_" in name or "base_layer" in name for name in trained)
    assert sum(group.count for group in plan.groups) == sum(p.numel() for p in model.parameters())
    # The attention keeps its class with wings: a backward reaches learners and adapters.
    model.train()(**row).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_model_without_learners_takes_adapters_without_a_warning(
    checkpoint, make_recipe, recwarn
):
    model = WingsForCausalLM.from_pretrained(checkpoint, learners=())
    recwarn.clear()
    prepare_groups(model, make_recipe("instruct", lora=Lora(rank=2)))
    assert adapters(model)
    assert not [str(one.message) for one in recwarn if "exclude" in str(one.message)]


def test_targets_are_names_of_layers(checkpoint, make_recipe):
    model = WingsForCausalLM.from_pretrained(checkpoint, **BOTH)
    prepare_groups(model, make_recipe("instruct", lora=Lora(targets=["q_proj", "v_proj"])))
    assert len(adapters(model)) == 2 * 2 * 2
    model = WingsForCausalLM.from_pretrained(checkpoint, **BOTH)
    with pytest.raises(WingsError, match=r"lora\.targets: .* no linear layer 'c_attn'; it"):
        prepare_groups(model, make_recipe("instruct", lora=Lora(targets=["q_proj", "c_attn"])))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bf16", [False, True])
def test_merged_adapters_give_the_same_logits(checkpoint, make_recipe, bf16, seed):
    torch.manual_seed(seed)
    dtype = torch.bfloat16 if bf16 else torch.float32
    model = WingsForCausalLM.from_pretrained(checkpoint, dtype=dtype, **BOTH)
    names = set(model.state_dict())
    recipe = make_recipe("instruct", lora=Lora(rank=4), bf16=bf16)
    prepare_groups(model, recipe)
    with torch.no_grad():
        for parameter in adapters(model):
            parameter.normal_(std=0.1)
    row = batch(checkpoint)
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        expected = model(**row).logits
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(**doubled(row)).logits
    merge_adapters(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        merged = model(**row).logits
    assert set(model.state_dict()) == names and not adapters(model)
    assert next(model.model.language_model.parameters()).dtype == dtype
    size = expected.float().norm()
    # What the sum is rounded by, to the type that the layer had, is no more than a product's own.
    own = (expected - exact).norm()
    assert (merged - exact).norm() < 2 * own < 0.1 * size
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        fresh = WingsForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, **BOTH)
        assert (fresh(**row).logits - expected).float().norm() > 0.1 * size


def test_the_result_is_an_ordinary_checkpoint_that_needs_no_peft(
    checkpoint, make_recipe, tmp_path, monkeypatch
):
    result = train(make_recipe("instruct", save_every=4, **QUICK))
    before, after = weights(checkpoint), weights(result.folder)
    assert not any("lora" in name or "base_layer" in name for name in after)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    llm = {name for name in moved if ".wings." not in name and ".language_model." in name}
    assert llm and all("proj" in name for name in llm)
    assert "rate/lora" in result.history[0] and "rate/language_model" not in result.history[0]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "peft", None)
        WingsForCausalLM.from_pretrained(result.folder).extract_language_model()
    # What a killed run goes on with holds the adapters, and says so to those who try to load it.
    with pytest.raises(WingsError, match=r"no parameter for|lacks"):
        WingsForCausalLM.from_pretrained(result.folder / "checkpoint-4")
    # Another stage goes on from the result as from any other.
    train(make_recipe("instruct", start=str(result.folder), output=str(tmp_path / "more"), steps=1))


def test_a_killed_run_goes_on_to_the_same_weights(make_recipe, tmp_path):
    settings = {**QUICK, "lora": Lora(rank=4, dropout=0.1), "steps": 12, "save_every": 1}
    whole = train(make_recipe("instruct", output=str(tmp_path / "whole"), **settings))
    recipe = make_recipe("instruct", **settings)
    (tmp_path / "r.yaml").write_text(recipe.to_yaml())
    assert Recipe.from_yaml(tmp_path / "r.yaml") == recipe
    folder = RunFolder(recipe.output)
    run = Program("-m", "wings.train", tmp_path / "r.yaml")
    while run.poll() is None and len(folder.checkpoints()) < 2:
        time.sleep(0.01)
    run.kill()
    assert run.wait() == -signal.SIGKILL and not folder.finished
    result = train(recipe)
    expected, found = weights(whole.folder), weights(result.folder)
    assert result.losses == whole.losses
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    # Killed between the last step and the final model.
    (folder.path / "result.json").unlink()
    (folder.path / "model.safetensors").write_bytes(b"half")
    train(recipe)
    found = weights(folder.path)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize(
    ("stage", "changes", "sentence"),
    [
        (
            "align",
            {"lora": Lora()},
            "lora: stage align trains adapters only with lora.stages: both",
        ),
        ("instruct", {"lora": Lora(), "freeze_llm": False}, "freeze_llm: lora needs a frozen LLM"),
        ("instruct", {"lora": Lora(), "parallel": "fsdp"}, "lora: adapters cannot be merged"),
        ("instruct", {"lora": Lora(rank=0)}, r"lora\.rank: 0 must be larger"),
        ("instruct", {"lora": Lora(dropout=1.0)}, r"lora\.dropout: 1\.0 is not a share"),
        ("instruct", {"lora": Lora(targets=[])}, r"lora\.targets: name at least one"),
        (
            "instruct",
            {"learning_rates": {"lora": 1e-4}},
            r"learning_rates\.lora: there are no adapters",
        ),
        (
            "instruct",
            {"lora": Lora(), "learning_rates": {"language_model": 1e-5}},
            r"learning_rates\.language_model: lora keeps the LLM frozen; set learning_rates\.lora",
        ),
    ],
)
def test_what_lora_cannot_mean_is_refused(make_recipe, stage, changes, sentence):
    with pytest.raises(WingsError, match=sentence):
        make_recipe(stage, **changes)


def test_without_peft_a_sentence_says_what_to_install(checkpoint, make_recipe, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    model = WingsForCausalLM.from_pretrained(checkpoint, **BOTH)
    with pytest.raises(WingsError, match=r"lora needs peft: .*wings-lorra\[lora\]"):
        prepare_groups(model, make_recipe("instruct", lora=Lora()))
