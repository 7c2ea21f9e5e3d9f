"""Tiny decoders on which contracts and the self-check are proven in milliseconds."""

from typing import Any

from transformers import LlamaConfig


def tiny_config(**options: Any) -> LlamaConfig:
    """A decoder of one block with 8 numbers a token and 16 tokens; no token ends a text."""
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
