"""A tiny Wings checkpoint and tiny data for the training tests, made once a session."""

import json
import os
import string
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from wings.train.recipe import Recipe, Source

# Tests import the modules that stand beside them, as do the processes they start.
sys.path.insert(0, str(Path(__file__).parent))

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
    """One token per character, four special ones."""
    special = ["<pad>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    letters = {letter: n for n, letter in enumerate([*special, *string.printable])}
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<|end|>",
        additional_special_tokens=special[2:],
        chat_template=TEMPLATE,
    )


def tiny_model(text=None, **options):
    """A random Wings model and its processor; `text` are changes to the decoder's configuration."""
    from wings.config import WingsConfig
    from wings.model import WingsForCausalLM
    from wings.processor import WingsProcessor

    torch.manual_seed(0)
    processor = WingsProcessor.from_vision_text_pretrained(VISION, tiny_tokenizer())
    sizes = {
        "vocab_size": 128,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
    }
    config = WingsConfig(
        text_config=LlamaConfig(**{**sizes, **(text or {})}),
        vision_config=VISION,
        rank=4,
        image_token_id=processor.image_token_id,
        **options,
    )
    return WingsForCausalLM(config), processor


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Folder of a checkpoint as stage 1 leaves it: a visual learner, no router."""
    folder = tmp_path_factory.mktemp("start")
    model, processor = tiny_model(learners=("image",), router=None)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_tiny():
    """`tiny_model`, for tests that need one of another kind."""
    return tiny_model


@pytest.fixture
def make_model():
    """A function of options: a random model with them, and its processor."""
    return tiny_model


@pytest.fixture
def plain():
    """A model without learners, and its processor."""
    return tiny_model(learners=())


def records(folder, count, *, pictures, seed=0):
    """LLaVA records, with a picture each or none; answers of different lengths."""
    colours = ["red", "green", "blue"]
    for n in range(count):
        name = colours[(n + seed) % 3]
        if pictures:
            Image.new("RGB", (30 + n % 5, 28), name).save(folder / f"{seed}-{n}.png")
            question, more = "<image>\nWhich colour?", {"image": f"{seed}-{n}.png"}
        else:
            question, more = f"{n}+1?", {}
        answer = name + "!" * (n % 4)
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        yield {"id": f"{seed}-{n}", "conversations": turns, **more}


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Two files: `pictures.json` of 16 records, `text.jsonl` of 8."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "pictures.json").write_text(json.dumps([*records(folder, 16, pictures=True)]))
    lines = [json.dumps(record) for record in records(folder, 8, pictures=False)]
    (folder / "text.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def make_recipe(checkpoint, data, tmp_path):
    """A function of (stage, **changes): a recipe of a few steps on the mixed data."""

    def make(stage, **changes):
        sources = [Source(str(data / "pictures.json"), str(data)), Source(str(data / "text.jsonl"))]
        settings = {
            "output": str(tmp_path / "run"),
            "data": sources,
            "start": str(checkpoint),
            "batch_size": 4,
            "steps": 4,
            "trackers": [],
            "log_every": 1,
            "max_length": 64,
        }
        return Recipe(stage=stage, **{**settings, **changes})

    return make


@pytest.fixture
def torchrun(tmp_path):
    """A function of (processes, *arguments): `torchrun` on the CPU; (exit code, stdout, stderr)."""

    def run(processes, *arguments, timeout=240):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(processes), *map(str, arguments)]
        pipe = subprocess.PIPE
        launcher = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe, text=True
        )
        try:
            out, err = launcher.communicate(timeout=timeout)
        finally:
            # Asked, not killed: only then does the launcher end its workers too.
            launcher.terminate()
            launcher.wait()
        return launcher.returncode, out, err

    return run
