"""Tiny decoders on which contracts and the self-check are proven in milliseconds."""

from typing import Any, TypeVar

import torch
from transformers import LlamaConfig, LlamaPreTrainedModel

Model = TypeVar("Model", bound=LlamaPreTrainedModel)


def tiny_config(**options: Any) -> LlamaConfig:
    """Configuration of a Llama with one block of width 8 and no end token; `options` are fields."""
    fields: dict[str, Any] = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 16,
        "bos_token_id": 1,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    return LlamaConfig(**{**fields, **options})


def tiny_model(kind: type[Model], **options: Any) -> Model:
    """A `kind` of tiny Llama in evaluation mode; drawing it does not advance the random state."""
    with torch.random.fork_rng(devices=[]):
        return kind(tiny_config(**options)).eval()
