"""Prompt and answer are tokenised as they meet in use, whatever letters a tokenizer joins."""

import pytest
from processors import (
    SPECIAL,
    TEMPLATES,
    TOKENIZER,
    ask,
    assistant,
    learned,
    make_processor,
    metaspace_tokenizer,
    user,
)
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

# How Qwen 2.5 and 3 split: line breaks join with one another and with signs before them.
SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def joining_tokenizer():
    core = Tokenizer(models.BPE())
    core.decoder = decoders.ByteLevel()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    lines = ["the cat\n\nsat\n\n\non: the mat.\n\n  \n\nand :\n\n a .\n"] * 50
    core.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>")


TOKENIZERS = {"joins": joining_tokenizer(), "bytes": TOKENIZER, "space": metaspace_tokenizer()}
ANSWERS = [
    "\nthe cat", "\n\nthe cat", "\n", " the cat", "  \n the", "the cat\n", ".\n\n", ": a", "",
    "\r\nthe", "\tthe",
]  # fmt: skip


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_follows_the_prompt_of_use(tokenizer, name, answer):
    """The ids before an answer are those of the prompt; with it they read as the whole text."""
    template, _ = TEMPLATES[name]
    processor = make_processor(template, TOKENIZERS[tokenizer])
    question = user("x")
    row = processor.encode([question, assistant(answer)])
    prompt = processor.encode([question], add_generation_prompt=True)["input_ids"].tolist()
    start = (row["labels"] != -100).nonzero()[0].item()
    # Prompts with thoughts that the answer does not keep, or that end before the answer's header.
    if name not in ("forgetful", "no prompt"):
        assert row["input_ids"][:start].tolist() == prompt
    text = processor.apply_chat_template(
        [question, assistant(answer)], tokenize=False, add_generation_prompt=False
    )
    whole = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert processor.tokenizer.decode(row["input_ids"]) == processor.tokenizer.decode(whole)
    assert answer.strip() in learned(processor, row)[0]


def test_what_joins_is_cut_and_nothing_else():
    processor = make_processor(TEMPLATES["chatml"][0], TOKENIZERS["joins"])
    number = processor.tokenizer("\n\n")["input_ids"]
    assert len(number) == 1, "the tokenizer joins no line breaks"
    row = processor.encode([user("x"), assistant("\nthe cat\n\nsat")])
    assert learned(processor, row) == ["\nthe cat\n\nsat<|im_end|>"]
    # One within the answer, none at its border.
    assert row["input_ids"].tolist().count(number[0]) == 1


def test_a_bos_stands_once():
    processor = make_processor(TEMPLATES["llama3"][0])
    tokenizer = processor.tokenizer
    tokenizer.bos_token = "<|begin_of_text|>"
    from tokenizers import processors

    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A",
        special_tokens=[("<|begin_of_text|>", tokenizer.bos_token_id)],
    )
    one = ask(processor, [user("x")])["input_ids"][0].tolist()
    text = processor.apply_chat_template([user("x")], add_generation_prompt=True)
    assert processor(text=text)["input_ids"][0] == one
    assert processor(text="x")["input_ids"][0][0] == tokenizer.bos_token_id
    assert len(processor(text="x", add_special_tokens=False)["input_ids"][0]) == 1
