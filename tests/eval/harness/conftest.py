"""A tiny LLM, and Wings checkpoints grown from it, as folders that the harness loads."""

import os
import string

# Asked for before its library is imported: nothing here is on the Hub, and asking takes long.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from wings import WingsForCausalLM, WingsProcessor

TEMPLATE = """{%- for message in messages -%}
<|{{ message['role'] }}|>
{%- if message['content'] is string -%}{{ message['content'] }}
{%- else -%}{%- for part in message['content'] -%}
{{ '<image>' if part['type'] == 'image' else part['text'] }}
{%- endfor -%}{%- endif -%}<|end|>
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"""
VISION = {
    "vision_cfg": {"image_size": 28, "patch_size": 14, "width": 32, "layers": 2, "head_width": 16}
}


def tiny_tokenizer():
    """One token per character, five special ones."""
    special = ["<pad>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    letters = {letter: n for n, letter in enumerate([*special, *string.printable])}
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<|end|>",
        additional_special_tokens=special[2:],
        chat_template=TEMPLATE,
    )


@pytest.fixture(scope="session")
def llm(tmp_path_factory):
    """Folder of a random LLM with its tokenizer."""
    folder = tmp_path_factory.mktemp("llm")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.3,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def grown(llm, folder, **options):
    """A checkpoint whose learners are no longer fresh: they would change every answer."""
    torch.manual_seed(1)
    model = WingsForCausalLM.from_vision_text_pretrained(VISION, str(llm), rank=4, **options)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".wings." in name:
                weight.normal_(std=0.3)
    model.save_pretrained(folder)
    WingsProcessor.from_vision_text_pretrained(VISION, str(llm)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def guarded(llm, tmp_path_factory):
    """Folder of a Wings model whose text guard holds the LLM's own text."""
    return grown(llm, tmp_path_factory.mktemp("guarded"), text_guard=True)


@pytest.fixture(scope="session")
def unguarded(llm, tmp_path_factory):
    """Folder of a Wings model whose learners speak in text too."""
    return grown(llm, tmp_path_factory.mktemp("unguarded"))
