"""Training that starts from a checkpoint of learners alone."""

from pathlib import Path

import torch
from tiny import TEXT, VISION, tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor
from wings.train.run import train


def test_a_run_starts_from_learners_and_can_be_saved_so(make_recipe, tmp_path):
    torch.manual_seed(0)
    llm, start = tmp_path / "llm", tmp_path / "start"
    LlamaForCausalLM(LlamaConfig(**TEXT)).save_pretrained(llm)
    tiny_tokenizer().save_pretrained(llm)
    model = WingsForCausalLM.from_vision_text_pretrained(
        VISION, str(llm), rank=4, learners=("image",), router=None
    )
    model.save_pretrained(start, learners_only=True)
    WingsProcessor.from_vision_text_pretrained(VISION, llm).save_pretrained(start)
    recipe = make_recipe("instruct", start=str(start), steps=1, freeze_llm=True)
    train(recipe)
    trained = WingsForCausalLM.from_pretrained(recipe.output)
    assert trained.config.llm_trained is False
    assert (Path(recipe.output) / "modeling_wings.py").is_file()
    trained.save_pretrained(tmp_path / "again", learners_only=True)
    again = WingsForCausalLM.from_pretrained(tmp_path / "again")
    assert again.config.is_routed
    found, expected = again.state_dict(), trained.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
