"""A tiny tokenizer and Wings model, and LLaVA records that it can be trained on."""

import string

import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from wings.config import WingsConfig
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor

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
TEXT = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
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


def tiny_model(text=None, **options):
    """A random Wings model and its processor; `text` are changes to the decoder's configuration."""
    torch.manual_seed(0)
    processor = WingsProcessor.from_vision_text_pretrained(VISION, tiny_tokenizer())
    config = WingsConfig(
        text_config=LlamaConfig(**{**TEXT, **(text or {})}),
        vision_config=VISION,
        rank=4,
        image_token_id=processor.image_token_id,
        **options,
    )
    return WingsForCausalLM(config), processor


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
