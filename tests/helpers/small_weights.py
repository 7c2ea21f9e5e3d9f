"""Small random weights in the places of those that the examples take from packages."""

from concurrent.futures import Future

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, WhisperModel

from wings.encoders.open_clip_tower import VisionTower
from wings.examples.quickstart import tiny_tower
from wings.examples.quickstart.jobs import ASSETS
from wings.examples.speech import small_encoder

LLM = {"hidden_size": 64, "intermediate_size": 32, "num_attention_heads": 2,
       "num_key_value_heads": 1}  # fmt: skip
TOWER = {"image_size": 28, "patch_size": 14, "width": 16, "layers": 2, "head_width": 8}
SPEECH = {"seconds": small_encoder.SECONDS, "pool": 10}


class Inline:
    """An executor without processes: what is broken for a test is broken in its jobs."""

    def __init__(self, *args, **kwargs):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def submit(self, job, *arguments):
        future = Future()
        try:
            future.set_result(job(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


def make_weights(folder):
    """A random LLM of two blocks and a random tower where `write_weights` puts the real ones."""
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "llm")
    torch.manual_seed(0)
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), num_hidden_layers=2, bos_token_id=None, **special, **LLM
        )
    ).bfloat16().save_pretrained(folder / "llm")
    tokenizer.save_pretrained(folder / "llm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_tower, "CONFIG", TOWER)
        made = VisionTower({"vision_cfg": TOWER, "image_mean": [0.5] * 3, "image_std": [0.5] * 3})
        tiny_tower.save_tower(made, folder / "tower")


def make_ears(folder):
    """A random encoder of sounds where `write_whisper` puts the real one."""
    torch.manual_seed(0)
    WhisperModel(small_encoder.CONFIG).save_pretrained(folder)
    small_encoder.extractor().save_pretrained(folder)
