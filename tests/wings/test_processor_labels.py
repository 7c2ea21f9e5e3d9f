"""What is learned of a conversation: the answers, whole, and nothing else."""

import pytest
import torch
from draws import examples
from hypothesis import given
from hypothesis import strategies as st
from processors import (
    CHATML,
    TEMPLATES,
    THINKING,
    TOKENIZER,
    assistant,
    batch_of,
    learned,
    make_processor,
    metaspace_tokenizer,
    picture,
    user,
)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("tokenizer", [TOKENIZER, metaspace_tokenizer()], ids=["bytes", "space"])
def test_labels_are_the_answers_and_their_end(name, tokenizer):
    template, reads = TEMPLATES[name]
    processor = make_processor(template, tokenizer)
    answers = ["a red circle", "the left", "on"]
    messages = []
    for answer in answers:
        messages += [user(picture(), "what is it?"), assistant(answer)]
    row = processor.encode(messages)
    found = [text.strip(" ") for text in learned(processor, row)]
    assert found == [reads.format(answer).strip(" ") for answer in answers]
    assert row["pixel_values"].shape == (3, 3, 28, 28)


WORDS = st.text(max_size=12) | st.sampled_from(
    [
        "<|im_end|>",
        "\n\n",
        " ",
        "assistant",
        "<image",
        "<image>",
        "[INST]",
        "中🙂\u200b",
        "</think>",
    ]
)


@examples(40)
@given(
    name=st.sampled_from(sorted(TEMPLATES)),
    turns=st.lists(st.tuples(WORDS, st.booleans(), WORDS, WORDS), min_size=1, max_size=3),
)
def test_any_conversation(name, turns):
    """Ids are the tokenizer's own for the template's text, and every answer is learned whole."""
    processor = make_processor(TEMPLATES[name][0])
    messages, plain = [], []
    for before, has_image, after, answer in turns:
        parts = [before, picture(), after] if has_image else [before, after]
        messages += [user(*parts), assistant(answer)]
        plain += [{"role": "user", "content": before + after}, assistant(answer)]
    row = processor.encode(messages)
    images = sum(has_image for _, has_image, _, _ in turns)
    ids = row["input_ids"]
    assert (ids == processor.image_token_id).sum() == 4 * images
    assert len(row.get("pixel_values", ())) == images
    # A typed token is one to the tokenizer alone.
    words = "".join(message["content"] for message in plain)
    if not images and not any(token in words for token in ("<image>", "<|im_end|>", "[INST]")):
        own = processor.tokenizer.apply_chat_template(plain, return_dict=False)
        assert processor.tokenizer.decode(ids) == processor.tokenizer.decode(own)
        # Templates without a special token before the answer may join it with a letter.
        assert ids.tolist() == own or name in ("plain", "mistral", "no prompt")
    found = "".join(learned(processor, row))
    for _, _, _, answer in turns:
        assert answer.strip() in found


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_learned_follows_what_is_prompted(name):
    """The ids before a learned turn are those that the model is given when it has to answer."""
    processor = make_processor(TEMPLATES[name][0])
    messages = [user(picture(), "what is it?"), assistant("a circle")]
    row = processor.encode(messages)
    prompt = processor.encode(messages[:1], add_generation_prompt=True)
    start = (row["labels"] != -100).nonzero()[0].item()
    if name not in ("forgetful", "no prompt"):
        assert row["input_ids"][:start].tolist() == prompt["input_ids"].tolist()
    assert (prompt["labels"] == -100).all()


def test_thoughts_before_the_newest_answer_are_part_of_it():
    processor = make_processor(THINKING)
    messages = [user("it?"), assistant("left"), user("it?"), assistant("on")]
    row = processor.encode(messages)
    assert learned(processor, row) == ["left<|im_end|>", "<think>\n\n</think>\n\non<|im_end|>"]


def test_what_a_template_leaves_out_of_an_answer_is_not_learned():
    """Thoughts of an older answer are cut by the template, those of the newest are kept."""
    template = THINKING.replace(
        "{{ message['content'] + ",
        "{{ (message['content'] if loop.last else message['content'].split('</think>')[-1]) + ",
    ).replace("and loop.last %}", "and loop.last and '</think>' not in message['content'] %}")
    processor = make_processor(template)
    thoughts = "<think>it is</think>"
    messages = [user("it?"), assistant(thoughts + "left"), user("it?"), assistant(thoughts + "on")]
    row = processor.encode(messages)
    assert learned(processor, row) == ["left<|im_end|>", thoughts + "on<|im_end|>"]


def test_an_answer_in_its_own_header_is_not_confused():
    """Answers that occur in the template's own words, empty ones, ones that look like markup."""
    processor = make_processor(CHATML)
    answers = ["a", "assistant", "\n", "", "im_end", "user\nassistant", "circle " * 50, " é中🙂"]
    messages = []
    for answer in answers:
        messages += [user("assistant"), assistant(answer)]
    row = processor.encode(messages)
    assert learned(processor, row) == [f"{answer}<|im_end|>" for answer in answers]


def test_a_boundary_within_a_token_is_cut():
    """Else the mask would cover a letter of the prompt."""
    joins = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    processor = make_processor(joins)
    row = processor.encode([user("the im"), assistant("age is")])
    prompt = processor.tokenizer("the im")["input_ids"]
    assert row["input_ids"][: len(prompt)].tolist() == prompt
    assert learned(processor, row) == ["age is"]


def test_labels_of_a_batch(processor):
    conversations = [
        [user("a"), assistant("left")],
        [user(picture(), "what is it?"), assistant("a red circle")],
    ]
    batch = batch_of(
        processor, conversations, return_labels=True, processor_kwargs={"padding_side": "right"}
    )
    rows = [processor.encode(messages) for messages in conversations]
    want = processor.pad(rows)
    assert torch.equal(batch["labels"], want["labels"])
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()
    assert batch["labels"].shape == batch["input_ids"].shape
