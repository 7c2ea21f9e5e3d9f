"""`wings extract`: the language model alone, as its own tokenizer and transformers load it."""

import json

import pytest
import torch
from tiny import TEXT, VISION, tiny_tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    pipeline,
)

from wings.cli import main
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor


def language_model(folder, has_image_token, dtype):
    """Saves a language model with its tokenizer, which may have an `<image>` of its own."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    if has_image_token:
        tokenizer.add_tokens(["<image>"], special_tokens=True)
    rows = {True: len(tokenizer), False: 120}[has_image_token]
    model = LlamaForCausalLM(LlamaConfig(**{**TEXT, "vocab_size": rows})).to(dtype)
    model.generation_config.update(eos_token_id=[1, 2], repetition_penalty=1.1)
    for part in (model, tokenizer):
        part.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_image_token", [True, False])
def test_a_frozen_language_model_comes_out_as_it_was(has_image_token, dtype, tmp_path, capsys):
    """Tensors, token ids, templates, settings and what a pipeline says; learners had an effect."""
    source = language_model(tmp_path / "llm", has_image_token, dtype)
    model = WingsForCausalLM.from_vision_text_pretrained(VISION, source, rank=4)
    # As after a run: float32, with learners that do something.
    model.float()
    for name, parameter in model.named_parameters():
        if ".wings." in name:
            torch.nn.init.normal_(parameter, std=0.5)
    for part in (model, WingsProcessor.from_vision_text_pretrained(VISION, source)):
        part.save_pretrained(tmp_path / "wings")
    output = tmp_path / "out"
    assert main(["extract", str(tmp_path / "wings"), "--output", str(output)]) == 0
    kind = str(dtype).removeprefix("torch.")
    printed = capsys.readouterr().out
    assert printed.startswith(f"{output}: LlamaForCausalLM, ")
    assert f"weights in {kind}, with its tokenizer" in printed and printed.count("\n") == 1
    models = [AutoModelForCausalLM.from_pretrained(folder) for folder in (source, output)]
    one, two = (part.state_dict() for part in models)
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert models[1].dtype == dtype
    settings = [part.generation_config.to_diff_dict() for part in models]
    assert settings[0] == settings[1] and settings[0]["repetition_penalty"] == 1.1
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (source, output)]
    assert tokenizers[0].get_vocab() == tokenizers[1].get_vocab()
    messages = [{"role": "user", "content": "An <image> of <|user|> 1+1?"}]
    rows = [
        one.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
        for one in tokenizers
    ]
    assert rows[0] == rows[1] and max(rows[1]) < models[1].config.vocab_size
    answers = [
        pipeline("text-generation", str(folder))(messages, max_new_tokens=6, do_sample=False)
        for folder in (source, output)
    ]
    assert answers[0] == answers[1]
    assert "processor_class" not in json.loads((output / "tokenizer_config.json").read_text())


def test_folders_that_hold_something_else_are_refused(tmp_path, capsys):
    source = language_model(tmp_path / "llm", False, torch.float32)
    assert main(["extract", source, "--output", str(tmp_path / "out")]) == 2
    assert (
        "holds a 'llama' model, not a Wings checkpoint" in capsys.readouterr().err
        and not (tmp_path / "out").exists()
    )
    assert main(["extract", source, "--output", source]) == 2
    assert "files without a mark of wings extract" in capsys.readouterr().err
