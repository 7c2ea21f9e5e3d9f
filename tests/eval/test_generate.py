"""Answers: a batch of many lengths says what each item alone says."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from wings.eval.generate import answer_items, encode
from wings.eval.items import Item

WORDS = ["<pad>", "<end>", "<user>", "<bot>", *"abcdefghij"]
TEMPLATE = (
    "{% for m in messages %}{{ '<user> ' if m['role'] == 'user' else '<bot> ' }}"
    "{{ m['content'] }} <end> {% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
)


def small_lm():
    tokenizer = Tokenizer(models.WordLevel({w: n for n, w in enumerate(WORDS)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # It would pad on the right, and has to be told otherwise.
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<end>",
        chat_template=TEMPLATE,
        padding_side="right",
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.3,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config), fast


def items():
    texts = ["a", "b c d e f g h", "c a b", "d d d d", "j", "i h g f e d c b a"]
    return [Item("all", ({"role": "user", "content": text},), "") for text in texts]


def test_a_batch_says_what_each_alone_says():
    model, tokenizer = small_lm()
    alone = [answer_items(model, tokenizer, [item], max_new_tokens=6)[0] for item in items()]
    assert len(set(alone)) > 1
    seen = []
    together = answer_items(
        model, tokenizer, items(), batch_size=4, max_new_tokens=6, on_batch=seen.append
    )
    assert together == alone
    assert seen == [4, 2]


def test_a_batch_is_padded_on_the_left_and_ends_where_the_answer_begins():
    _, tokenizer = small_lm()
    batch = encode(tokenizer, [list(item.messages) for item in items()])
    assert (batch["input_ids"][:, -1] == WORDS.index("<bot>")).all()
    assert batch["attention_mask"][0, 0] == 0 and batch["attention_mask"][:, -1].all()
