"""Tiny language models to merge, and the weights of a merged one."""

import torch
from tiny import TEXT, tiny_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

# Rows of the tokenizer; the table has more.
TOKENS = 105


def moved(model, seed, scale=0.1):
    """Adds noise to all weights, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * scale
            parameter.add_(noise.to(parameter.dtype))
    return model


def save(folder, model, tokenizer=None, **options):
    model.save_pretrained(folder, **options)
    (tokenizer or tiny_tokenizer()).save_pretrained(folder)
    return folder


def language_model(seed=0, dtype=torch.float32, **changes):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**TEXT, **changes}))
    return moved(model, seed).to(dtype)


def weights(folder):
    """The tensors of a language model, as transformers loads it."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    return model.state_dict()
