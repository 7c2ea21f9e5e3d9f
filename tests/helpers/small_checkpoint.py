"""Fixtures: a small Wings checkpoint, its LLM and its data, made in a second."""

import pytest
import torch

from wings.examples.conversations import read_lines
from wings.examples.quickstart.dataset import QuickstartAmounts, Writer
from wings.examples.quickstart.tiny_llm import make_model, make_tokenizer
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor

TOWER = {"image_size": 32, "patch_size": 16, "width": 16, "layers": 2, "head_width": 8}
VISION = {"vision_cfg": TOWER}


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder of the quickstart's files, a few records each."""
    folder = tmp_path_factory.mktemp("quickstart") / "data"
    amounts = QuickstartAmounts(text=200, captions=8, conversations=8, held_out=8)
    Writer(folder, 0).write(amounts)
    return folder


@pytest.fixture(scope="session")
def checkpoint(data, tmp_path_factory):
    """A folder with an untrained Wings model; noise on all weights gives its learners an effect."""
    records = read_lines(data / "text.jsonl")
    tokenizer = make_tokenizer([m["content"] for r in records for m in r["messages"]])
    torch.manual_seed(0)
    processor = WingsProcessor.from_vision_text_pretrained(VISION, tokenizer)
    model = WingsForCausalLM.from_vision_text_pretrained(
        VISION, make_model(tokenizer, 0), rank=8, image_token_id=processor.image_token_id
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llm(checkpoint, tmp_path_factory):
    """A folder of a language model with the checkpoint's tokenizer."""
    folder = tmp_path_factory.mktemp("llm")
    tokenizer = WingsProcessor.from_pretrained(checkpoint).tokenizer
    tokenizer.save_pretrained(folder)
    make_model(tokenizer, 1).save_pretrained(folder)
    return folder
