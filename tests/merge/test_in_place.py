"""Merges in a loaded model: equal to those that are written, in any order."""

import pytest
import torch
from llava import image_tokenizer, llava
from merged import language_model, moved, save
from tiny import VISION
from transformers import LlavaForConditionalGeneration

from wings.errors import WingsError
from wings.merge.in_place import InPlaceMerge
from wings.merge.merged_model import write_merged_model
from wings.merge.plan import MergePlan
from wings.merge.recipe_of_command import recipe_of_command
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor

CASES = {
    "linear": ("linear", [0.75], {}),
    "llm": ("linear", [0], {}),
    "child": ("linear", [1], {}),
    "filters": ("linear", [], {"weight": [{"filter": "embed_tokens", "value": 0}, {"value": 0.5}]}),
    "back": ("task_arithmetic", [-0.5], {"density": 0.3, "start": "child"}),
    "ties": ("ties", [1], {"density": 0.2}),
}  # fmt: skip


def recipe(llm, child, case, dtype=None):
    method, weights, parameters = CASES[case]
    return recipe_of_command([str(llm), str(child)], method, weights, parameters, dtype, None)


def compare(llm, child, kind, tmp_path, **changes):
    """Writes all cases one after the other, and compares each with a merge that is saved."""
    model = kind.from_pretrained(child)
    place = InPlaceMerge(MergePlan.of(recipe(llm, child, "linear", **changes)), model)
    for n, case in enumerate([*CASES, "child", "linear"]):
        one = recipe(llm, child, case, **changes)
        place.write(one)
        folder = save(tmp_path / str(n), language_model())
        write_merged_model(MergePlan.of(one), folder, lambda done, total: None)
        expected = kind.from_pretrained(folder).state_dict()
        found = model.state_dict()
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(found[name].to(tensor.dtype), tensor), (case, name)


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_a_wings_child_gets_the_weights_that_are_saved(llm, wings_child, tmp_path, dtype):
    compare(llm, wings_child, WingsForCausalLM, tmp_path, dtype=dtype)


@pytest.mark.parametrize("is_tied", [False, True])
def test_a_llava_gets_the_weights_that_are_saved(llm, tmp_path, is_tied):
    base = llm
    if is_tied:
        base = save(tmp_path / "base", language_model(tie_word_embeddings=True))
    model = llava(base, tie_word_embeddings=is_tied)
    child = save(tmp_path / "child", model, image_tokenizer())
    compare(base, child, LlavaForConditionalGeneration, tmp_path)


def test_a_head_that_the_child_lacks_is_refused(llm, tmp_path):
    child = save(tmp_path / "llava", llava(llm, tie_word_embeddings=True), image_tokenizer())
    plan = MergePlan.of(recipe(llm, child, "linear"))
    assert plan.unties_head
    with pytest.raises(WingsError, match="lacks an output head of its own"):
        InPlaceMerge(plan, LlavaForConditionalGeneration.from_pretrained(child))


def test_weights_that_are_loaded_in_another_form_are_refused(llm, wings_child, tmp_path):
    model = WingsForCausalLM.from_pretrained(wings_child)
    plan = MergePlan.of(recipe(llm, wings_child, "linear"))
    layer = model.model.language_model.layers[0].mlp
    layer.up_proj.weight = torch.nn.Parameter(layer.up_proj.weight[:3])
    with pytest.raises(WingsError, match=r"up_proj.weight of .* is loaded in another form"):
        InPlaceMerge(plan, model)


def test_a_child_with_the_weights_of_its_language_model_is_refused(llm, tmp_path):
    model = WingsForCausalLM.from_vision_text_pretrained(VISION, str(llm), rank=4)
    model.save_pretrained(tmp_path)
    WingsProcessor.from_vision_text_pretrained(VISION, str(llm)).save_pretrained(tmp_path)
    with pytest.raises(WingsError, match="nothing to merge"):
        InPlaceMerge(MergePlan.of(recipe(llm, tmp_path, "linear")), model)


def test_nan_in_a_source_names_the_tensor(llm, wings_child, tmp_path):
    broken = moved(WingsForCausalLM.from_pretrained(wings_child), 5)
    with torch.no_grad():
        broken.model.language_model.norm.weight[0] = float("nan")
    broken.save_pretrained(tmp_path / "broken")
    for file in wings_child.glob("*token*"):
        (tmp_path / "broken" / file.name).write_bytes(file.read_bytes())
    one = recipe(llm, tmp_path / "broken", "linear")
    place = InPlaceMerge(MergePlan.of(one), broken)
    with pytest.raises(WingsError, match=r"norm\.weight"):
        place.write(one)
