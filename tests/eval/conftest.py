"""Tiny models of which everything is known: Markov chains written into a Llama's weights."""

import json

import numpy as np
import pytest
import soundfile
import torch
from audio_models import tiny_audio
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from wings import WingsForCausalLM, WingsProcessor
from wings.eval.fingerprint import model_fingerprint
from wings.eval.models import EvalModel
from wings.eval.processes import Processes
from wings.eval.result_cache import ResultCache
from wings.eval.runner import EvalRunner

WORDS = ["<pad>", "<end>", "<user>", "<bot>", *"abcdefghijkl"]
END, BOT = WORDS.index("<end>"), WORDS.index("<bot>")
TEMPLATE = (
    "{% for m in messages %}{{ '<user> ' if m['role'] == 'user' else '<bot> ' }}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}"
    "{{ '<image> ' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endif %}"
    " <end> {% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
)
VISION = {
    "vision_cfg": {"image_size": 28, "patch_size": 14, "width": 16, "layers": 2, "head_width": 8}
}


def make_tokenizer():
    tokenizer = Tokenizer(models.WordLevel({w: n for n, w in enumerate(WORDS)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>",
        additional_special_tokens=["<user>", "<bot>"], chat_template=TEMPLATE,
    )  # fmt: skip


def make_chain(table, tokenizer):
    """A Llama whose logits of the token after i are `table[i]` [V, V], whatever came before."""
    size = len(WORDS)
    config = LlamaConfig(
        vocab_size=size, hidden_size=size, intermediate_size=8, num_hidden_layers=2,
        num_attention_heads=2, tie_word_embeddings=False, pad_token_id=0, eos_token_id=END,
        bos_token_id=None, max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        # The norm makes sqrt(D) of a row's one entry.
        model.model.embed_tokens.weight.copy_(1000 * torch.eye(size))
        model.lm_head.weight.copy_(table.T / size**0.5)
    return model


def random_table(seed, says):
    """Random logits; after the assistant's header the word `says` is certain, then the end."""
    table = torch.randn(len(WORDS), len(WORDS), generator=torch.Generator().manual_seed(seed))
    table[BOT, WORDS.index(says)] = 12.0
    table[WORDS.index(says), END] = 12.0
    return table


def make_eval_model(model, processor, name):
    kind = model.config.model_type
    return EvalModel(name, kind, model.eval(), processor, model_fingerprint(model, processor))


@pytest.fixture
def chain():
    """A function (seed, the word it says) -> a plain language model as a subject, its table."""

    def make(seed, says):
        table, tokenizer = random_table(seed, says), make_tokenizer()
        return make_eval_model(make_chain(table, tokenizer), tokenizer, f"chain {seed}"), table

    return make


@pytest.fixture
def winged():
    """A function (seed, word) -> a Wings model of fresh learners around such a chain, its table."""

    def make(seed, says):
        table, tokenizer = random_table(seed, says), make_tokenizer()
        processor = WingsProcessor.from_vision_text_pretrained(VISION, tokenizer)
        model = WingsForCausalLM.from_vision_text_pretrained(
            VISION, make_chain(table, tokenizer), rank=4, image_token_id=processor.image_token_id
        )
        return make_eval_model(model, processor, f"winged {seed}"), table

    return make


@pytest.fixture
def hearing():
    """A function (seed, word) -> such a model that hears, and sees too unless `image` is None."""

    def make(seed, says, image=VISION):
        table, tokenizer = random_table(seed, says), make_tokenizer()
        audio = tiny_audio("whisper", pool=4)
        processor = WingsProcessor.from_pretrained_parts(text=tokenizer, image=image, audio=audio)
        model = WingsForCausalLM.from_pretrained_parts(
            text=make_chain(table, tokenizer), image=image, audio=audio,
            senses={"audio": {"rank": 4}}, **({"rank": 4, "text_guard": True} if image else {}),
        )  # fmt: skip
        for name, sense in processor.senses.items():
            model.config.change_sense(name, token_id=sense.token_id)
        return make_eval_model(model, processor, f"hearing {seed}")

    return make


@pytest.fixture
def make_runner(tmp_path):
    """A function of settings: work that is kept in one folder."""

    def make(**settings):
        processes = Processes()
        return EvalRunner(
            processes,
            ResultCache(tmp_path / "cache", processes),
            **{"max_new_tokens": 4, **settings},
        )

    return make


@pytest.fixture
def write(tmp_path):
    """A function (name, *records) -> the path of a JSON Lines file."""

    def make(name, *records):
        path = tmp_path / name
        path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
        return path

    return make


@pytest.fixture
def sound(tmp_path):
    """A function (name, seconds) -> the path of a sound file."""

    def make(name, seconds=1.5):
        samples = np.random.default_rng(len(name)).normal(0, 0.1, int(seconds * 16_000))
        soundfile.write(tmp_path / name, samples, 16_000)
        return str(tmp_path / name)

    return make


@pytest.fixture
def picture(tmp_path):
    """The path of a drawn picture."""
    Image.new("RGB", (28, 28), "red").save(tmp_path / "red.png")
    return str(tmp_path / "red.png")
