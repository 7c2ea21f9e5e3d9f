"""Merges of models that see: Wings checkpoints and LLaVA's form of transformers."""

import json

import pytest
import torch
from llava import IMAGE, image_tokenizer, llava
from merged import moved, save, weights
from PIL import Image
from tiny import VISION
from transformers import LlavaForConditionalGeneration

from wings.cli import main
from wings.merge import chunks
from wings.merge.tensor_store import TensorStore
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor

IDS = torch.tensor([[1, 2, IMAGE, IMAGE, IMAGE, IMAGE, 7, 9]])
PIXELS = torch.linspace(-1, 1, 3 * 28 * 28).reshape(1, 3, 28, 28)


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS, pixel_values=PIXELS).logits


def repaired(model, llm, share):
    """The merge, done in memory."""
    own = weights(llm)
    tied = model.config.text_config.tie_word_embeddings
    parts = [("model.", model.model.language_model)]
    parts += [] if tied else [("lm_head.", model.lm_head)]
    for prefix, part in parts:
        for name, tensor in part.state_dict().items():
            merged = own[prefix + name].lerp(tensor, share)
            if "embed" in name or "lm_head" in prefix:
                merged[IMAGE] = tensor[IMAGE]
            tensor.copy_(merged)
    return model


@pytest.mark.parametrize("layout", ["new", "old"])
def test_a_llava_is_repaired_towards_its_language_model(layout, llm, merge, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 1000)
    model = llava(llm)
    child = save(tmp_path / "llava", model, image_tokenizer())
    if layout == "new":
        rename(child)
    folder, _ = merge(llm, child, "--weight", 0.75)
    loaded, info = LlavaForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    before = logits(model)
    expected = logits(repaired(model, llm, 0.75))
    assert torch.allclose(logits(loaded), expected, atol=1e-5)
    assert not torch.allclose(before, expected, atol=1e-3)
    for name, tensor in model.state_dict().items():
        if "language_model" not in name and "lm_head" not in name:
            assert torch.equal(loaded.state_dict()[name], tensor), name


def rename(folder):
    """Writes the names of transformers' own module tree, where the head is at the top."""
    from safetensors.torch import load_file, save_file

    renamed = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        inner = name.replace("language_model.model.", "language_model.")
        is_head = name == "language_model.lm_head.weight"
        renamed["lm_head.weight" if is_head else f"model.{inner}"] = tensor
    assert "lm_head.weight" in renamed and "model.language_model.norm.weight" in renamed
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})


def test_a_tied_llava_of_an_untied_language_model(llm, merge, tmp_path):
    model = llava(llm, tie_word_embeddings=True)
    child = save(tmp_path / "llava", model, image_tokenizer())
    assert not [name for name in TensorStore(child) if "lm_head" in name]
    folder, _ = merge(llm, child, "--weight", 0)
    loaded = LlavaForConditionalGeneration.from_pretrained(folder)
    own = weights(llm)
    for name, tensor in (
        ("model.embed_tokens.weight", loaded.get_input_embeddings().weight),
        ("lm_head.weight", loaded.lm_head.weight),
    ):
        assert torch.equal(tensor[:IMAGE], own[name][:IMAGE])


@pytest.fixture(scope="module")
def merged_wings(llm, wings_child, tmp_path_factory):
    folder = tmp_path_factory.mktemp("merged") / "wings"
    command = ["merge", str(llm), str(wings_child), "--weight", "0.5", "--output", str(folder)]
    assert main(command) == 0
    return folder


def test_a_wings_checkpoint_keeps_what_sees(llm, wings_child, merged_wings):
    before, after = (WingsForCausalLM.from_pretrained(f) for f in (wings_child, merged_wings))
    one, two = before.state_dict(), after.state_dict()
    own = weights(llm)
    for name in one:
        if ("language_model" in name and ".wings." not in name) or name.startswith("lm_head"):
            short = name.replace("model.language_model.", "model.")
            rows = slice(IMAGE) if short in ("model.embed_tokens.weight", "lm_head.weight") else ...
            expected = 0.5 * (own[short][rows] + one[name][rows])
            assert torch.allclose(two[name][rows], expected, atol=1e-6), name
        else:
            assert torch.equal(one[name], two[name]), name
    assert before.config.llm_trained is None and after.config.llm_trained is True


def test_the_folder_is_taken_by_the_other_commands(merged_wings, tmp_path, capsys):
    processor = WingsProcessor.from_pretrained(merged_wings)
    picture = {"type": "image", "image": Image.new("RGB", (30, 28), "red")}
    content = [picture, {"type": "text", "text": "Which colour?"}]
    batch = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=True, return_dict=True,
        return_tensors="pt", add_generation_prompt=True,
    )  # fmt: skip
    model = WingsForCausalLM.from_pretrained(merged_wings)
    assert model.generate(**batch, max_new_tokens=2).shape[1] > batch["input_ids"].shape[1]
    assert main(["extract", str(merged_wings), "--output", str(tmp_path / "llm")]) == 0
    capsys.readouterr()
    assert main(["push", str(merged_wings), "me/merged", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "merged.json" in printed


@pytest.fixture(scope="module")
def other_wings(llm, tmp_path_factory):
    """Another checkpoint, of a tower and a projector without learners."""
    folder = tmp_path_factory.mktemp("other")
    model = WingsForCausalLM.from_vision_text_pretrained(
        VISION, str(llm), rank=4, learners=(), router=None
    )
    moved(model, 4).save_pretrained(folder)
    WingsProcessor.from_vision_text_pretrained(VISION, str(llm)).save_pretrained(folder)
    return folder


def test_of_several_children_that_see_one_is_named(llm, wings_child, other_wings, merge):
    models = (llm, wings_child, other_wings, "--weight", 0.25)
    _, said = merge(*models, code=2)
    assert "name the child by --keep" in said
    folder, printed = merge(*models, "--keep", wings_child)
    assert "beside its language model is left out" in printed
    found, own = TensorStore(folder), TensorStore(wings_child)
    assert set(found) == set(own)
    name = "model.language_model.norm.weight"
    expected = 0.5 * weights(llm)["model.norm.weight"]
    expected += 0.25 * own[name].read() + 0.25 * TensorStore(other_wings)[name].read()
    assert torch.allclose(found[name].read(), expected, atol=1e-6)
    assert json.loads((folder / "merged.json").read_text())["kept"] == wings_child.name


def test_learners_of_one_sense_in_two_children_are_refused(llm, wings_child, merge, tmp_path):
    from shutil import copytree

    twin = copytree(wings_child, tmp_path / "twin")
    for keep in ([], ["--keep", twin]):
        _, said = merge(llm, wings_child, twin, "--weight", 0.2, *keep, code=2)
        assert "both have image learners" in said


def test_a_text_child_joins_one_that_sees(llm, child, wings_child, merge):
    folder, _ = merge(llm, child, wings_child, "--method", "weighted")
    assert set(TensorStore(folder)) == set(TensorStore(wings_child))
