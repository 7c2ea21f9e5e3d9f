"""A small decoder LLM, trained from random weights: its tokenizer and its training on text."""

import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from wings.examples.conversations import read_lines

TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% set said %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}{% endif %}"
    "{% endset %}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ said + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ said + '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
PIECES = r" ?\p{L}+(?:-\p{L}+)*|\p{N}| ?[^\s\p{L}\p{N}]+|\s"
BATCH_TOKENS = 1024  # padding included
SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")


def make_tokenizer(sentences: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 768 tokens with separate digits, a chat template, and left padding.

    Every text gets a leading space, so that a word is the same token at every position.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Strip(content=" ", left=1, right=0)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=768, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(sentences, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        extra_special_tokens=list(SPECIAL[2:]),
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
        padding_side="left",
    )


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A Llama of 0.9 million parameters with random weights."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        initializer_range=0.04,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def train_llm(
    folder: Path, text: Path, seed: int, steps: int, on_step: Callable[[float], None]
) -> int:
    """Trains tokenizer and model on a file of text conversations and saves both in `folder`.

    Args:
        folder: gets a Hugging Face checkpoint.
        text: JSON Lines of chat messages without pictures.
        seed: of the weights and of the order of the data.
        steps: optimizer steps of about 1,000 tokens.
        on_step: called with every step's loss.

    Returns:
        The model's number of parameters.
    """
    conversations = [record["messages"] for record in read_lines(text)]
    texts = [message["content"] for messages in conversations[:4000] for message in messages]
    tokenizer = make_tokenizer(texts)
    model = make_model(tokenizer, seed)
    model.train()
    optimizers = make_optimizers(model)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmed_cosine(step, steps))
        for optimizer in optimizers
    ]
    samples = [encode(tokenizer, messages) for messages in conversations]
    batches = endless_batches(
        samples, random.Random(f"order {seed}"), tokenizer.pad_token_id, steps
    )
    for _, (input_ids, labels) in zip(range(steps), batches, strict=False):
        loss = model(input_ids=input_ids, labels=labels).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        on_step(loss.item())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.num_parameters()


def make_optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, to learn copying in a third of AdamW's steps; AdamW for the rest."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in named if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=0.01, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def warmed_cosine(step: int, steps: int) -> float:
    """Factor of the learning rate: warmup in 50 steps, then a cosine down to 2%."""
    return min(1.0, (step + 1) / 50) * (0.51 + 0.49 * math.cos(math.pi * step / steps))


def encode(tokenizer: PreTrainedTokenizerFast, messages: list[dict]) -> tuple[list[int], list[int]]:
    """Ids of a conversation and its labels, -100 outside the assistant's turns."""
    encoded: Any = tokenizer.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    ids, is_answer = encoded["input_ids"], encoded["assistant_masks"]
    return ids, [i if trained else -100 for i, trained in zip(ids, is_answer, strict=True)]


def endless_batches(
    samples: list[tuple[list[int], list[int]]], rng: random.Random, pad: int, steps: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of about `BATCH_TOKENS` tokens of like lengths: at first of single exchanges alone.

    A model learns to look things up many times faster in one short exchange than among four.

    Yields:
        input_ids and labels, both [B, T] int64, padded on the right.
    """
    short = [sample for sample in samples if len(sample[0]) < 64]
    made = 0
    while True:
        pool = rng.sample(samples if made > 0.7 * steps else short, min(512, len(short)))
        pool.sort(key=lambda sample: len(sample[0]))
        groups: list[list[tuple[list[int], list[int]]]] = [[]]
        for sample in pool:
            if len(sample[0]) * (len(groups[-1]) + 1) > BATCH_TOKENS:
                groups.append([])
            groups[-1].append(sample)
        rng.shuffle(groups)
        for group in groups:
            made += 1
            width = max(len(ids) for ids, _ in group)
            ids = [ids + [pad] * (width - len(ids)) for ids, _ in group]
            labels = [labels + [-100] * (width - len(labels)) for _, labels in group]
            yield torch.tensor(ids), torch.tensor(labels)
