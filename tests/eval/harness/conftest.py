"""A tiny LLM, and Wings checkpoints grown from it, as folders that the harness loads."""

import os

# Asked for before its library is imported: nothing here is on the Hub, and asking takes long.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from tiny import TEXT, VISION, tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from wings import WingsForCausalLM, WingsProcessor


@pytest.fixture(scope="session")
def llm(tmp_path_factory):
    """Folder of a random LLM with its tokenizer."""
    folder = tmp_path_factory.mktemp("llm")
    torch.manual_seed(0)
    config = LlamaConfig(
        **TEXT,
        max_position_embeddings=4096,
        initializer_range=0.3,
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
