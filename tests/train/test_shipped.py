"""Shipped recipes: found by name, valid, alike where they should be, and planned to fit."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, WhisperConfig, WhisperFeatureExtractor

from wings.train.estimate.budget import GIB, Budget
from wings.train.estimate.meta_model import ModelSpec
from wings.train.recipe import Recipe
from wings.train.recipe_file import SHIPPED, find_recipe, shipped_recipes

# The shapes of the language models that recipes name, from their public configurations.
DECODERS = {
    "qwen2.5-0.5b": (
        "qwen2",
        {
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "tie_word_embeddings": True,
        },
    ),
    "qwen2.5-7b": (
        "qwen2",
        {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
        },
    ),
    "llama-3.1-8b": (
        "llama",
        {
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 128256,
        },
    ),
}
# Weights of the language models alone, as their makers count them.
WEIGHTS = {
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-7b": 7_615_616_512,
    "llama-3.1-8b": 8_030_261_248,
}
STAGES = ("align", "instruct", "instruct-frozen", "instruct-lora")
# Of the smallest size alone: stages of sounds, and of images and sounds together.
FURTHER = {
    "audio-align", "audio-instruct", "audio-instruct-frozen", "both-align", "both-instruct-frozen",
}  # fmt: skip
REAL = [name for name in shipped_recipes() if "/" in name]
# Planning takes seconds: of the further ones, one a model.
UNPLANNED = ("/audio-align", "/audio-instruct", "/both-align")


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """A function of a size: a folder with its configuration and nothing else."""

    def write(size):
        family, shape = DECODERS[size]
        folder = tmp_path_factory.getbasetemp() / size
        AutoConfig.for_model(family, dtype="bfloat16", **shape).save_pretrained(folder)
        return folder

    return write


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """A folder with the configuration of Whisper base and nothing else."""
    folder = tmp_path_factory.mktemp("whisper")
    WhisperConfig(
        d_model=512, encoder_layers=6, encoder_attention_heads=8, decoder_attention_heads=8,
        encoder_ffn_dim=2048, num_mel_bins=80, architectures=["WhisperForConditionalGeneration"],
    ).save_pretrained(folder)  # fmt: skip
    WhisperFeatureExtractor().save_pretrained(folder)
    return folder


def fresh(decoder, whisper, name):
    """Overrides that plan a stage without the folder of the one before it."""
    size, stage = name.split("/")
    parts = ["start=", f"model.text={decoder(size)}"]
    if stage in FURTHER:
        parts.append(f"model.audio={{model_name: {whisper}, seconds: 10.0, pool: 4}}")
    if not stage.startswith("audio"):
        parts.append("model.vision=ViT-SO400M-14-SigLIP-384/webli")
    return parts


def test_every_size_has_its_stages():
    found = {size: {n.split("/")[1] for n in REAL if n.startswith(size)} for size in DECODERS}
    assert found.pop("qwen2.5-0.5b") == {*STAGES[:3], *FURTHER}
    assert all(stages == set(STAGES) for stages in found.values())
    assert all(
        find_recipe(name).is_file() and find_recipe(name).parent.parent == SHIPPED for name in REAL
    )


@pytest.mark.parametrize("name", REAL)
def test_a_recipe_is_short_and_names_itself(name):
    recipe = Recipe.from_yaml(find_recipe(name))
    text = find_recipe(name).read_text()
    assert recipe.bf16 and recipe.save_every and len(text.splitlines()) <= 60
    assert recipe.output == f"runs/{name}" and f"-m wings.train {name}\n" in text
    # The arithmetic comes from a command that is there to be repeated.
    assert f"wings plan {name}" in text and "GiB" in text and "hours" in text


@pytest.mark.parametrize("stage", STAGES)
def test_sizes_differ_in_what_their_size_asks_for(stage):
    """A change to one file that the others lack is found here."""
    its_own = {"model", "output", "start", "batch_size", "device_batch_size", "parallel"}
    its_own |= {"gradient_checkpointing"}
    recipes = [Recipe.from_yaml(find_recipe(n)).to_dict() for n in REAL if n.endswith(f"/{stage}")]
    for recipe in recipes:
        for key in its_own:
            recipe.pop(key)
    assert all(recipe == recipes[0] for recipe in recipes)


@pytest.mark.parametrize("name", [name for name in REAL if not name.endswith(UNPLANNED)])
def test_a_recipe_is_planned_and_fits(name, decoder, whisper):
    recipe = Recipe.from_yaml(find_recipe(name), fresh(decoder, whisper, name))
    gpus = 1 if name.endswith("lora") else 8
    budget = Budget(recipe, ModelSpec.of(recipe), gpus, 80.0)
    counts = {group.name: group.count for group in budget.groups}
    assert counts["language_model"] == WEIGHTS[name.split("/")[0]]
    held = {group.name: group.kind for group in budget.groups if group.rate is None}
    assert set(held.values()) == {torch.bfloat16}
    used = budget.device_memory(recipe.parallel).fixed
    used += budget.activations(recipe.parallel, budget.rows, recipe.gradient_checkpointing)
    assert 1 * GIB < used < budget.room
    if recipe.parallel == "fsdp":
        # Not a matter of taste: a whole copy does not fit.
        assert budget.device_memory("ddp").fixed > budget.room


def test_stage_2_is_planned_as_stage_1_will_make_it(decoder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, two = (find_recipe(f"qwen2.5-0.5b/{stage}") for stage in ("align", "instruct"))
    here = Path("recipes")
    here.mkdir()
    text = one.read_text().replace("Qwen/Qwen2.5-0.5B-Instruct", str(decoder("qwen2.5-0.5b")))
    (here / "align.yaml").write_text(text)
    (here / "instruct.yaml").write_text(two.read_text())
    spec = ModelSpec.of(Recipe.from_yaml(here / "instruct.yaml"), here / "instruct.yaml")
    assert spec.note == (
        "recipes/runs/qwen2.5-0.5b/align does not exist yet: using the model that align.yaml will"
        " write."
    )
    assert spec.config.learners == ("image", "text") and spec.config.router == "position"
    assert spec.config.hidden_size == 896 and spec.dtype == torch.bfloat16
