"""Conversations and chat templates that cannot be followed: each is refused in a sentence."""

import pytest
from processors import (
    GEMMA,
    GENERATION,
    MISTRAL,
    TINY,
    ask,
    assistant,
    make_processor,
    picture,
    train_tokenizer,
    user,
)

from wings.errors import WingsError
from wings.processing.processor import WingsProcessor


def test_a_template_that_hides_the_turn_is_refused():
    hides = "{% for m in messages %}{{ m['content'] | reverse }}{{ messages | length }}{% endfor %}"
    drops = "{% for m in messages %}{{ m['role'] }}{% endfor %}"
    for template in (hides, drops, drops + "{% if add_generation_prompt %}assistant{% endif %}"):
        with pytest.raises(WingsError, match="leaves out message 0"):
            make_processor(template).encode(
                [user("a"), assistant("b c"), user("d"), assistant("e")]
            )


def test_generation_marks_must_cover_every_turn():
    template = GENERATION.replace("'assistant' %}{% gen", "'assistant' and loop.last %}{% gen")
    messages = [user("a"), assistant("left"), user("b"), assistant("on")]
    with pytest.raises(WingsError, match="marks 1 of 2"):
        make_processor(template).encode(messages)


def test_templates_that_say_no():
    with pytest.raises(WingsError, match="System role not supported"):
        make_processor(GEMMA).encode(
            [{"role": "system", "content": "a"}, user("b"), assistant("c")]
        )
    with pytest.raises(WingsError, match="roles must alternate"):
        make_processor(MISTRAL).encode([user("b"), user("c"), assistant("d")])
    bare = WingsProcessor.from_vision_text_pretrained(TINY, train_tokenizer())
    with pytest.raises(WingsError, match=r"set processor\.chat_template"):
        bare.encode([user("b"), assistant("c")])
    drops = "{% for m in messages %}{{ m['role'] }}{% endfor %}"
    with pytest.raises(WingsError, match="leaves out message 0"):
        make_processor(drops).encode([user(picture()), assistant("c")])


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "at least one"),
        ({"role": "user", "content": "a"}, "a list"),
        ([{"role": "user"}], "Message 0 has no content"),
        ([{"role": "user", "content": []}], "Message 0 has no content"),
        ([{"role": "usr", "content": "a"}], "did you mean 'user'"),
        (
            [{"role": "user", "content": [{"type": "smell", "smell": "x"}]}],
            "Message 0 has the part",
        ),
        ([user("a")], "no assistant turn"),
    ],
)
def test_bad_conversations_get_a_sentence(processor, messages, says):
    with pytest.raises(WingsError, match=says):
        processor.encode(messages)


def test_nothing_to_answer(processor):
    with pytest.raises(WingsError, match="nothing to answer"):
        ask(processor, [user("a"), assistant("b")], add_generation_prompt=True)
    continued = processor.apply_chat_template(
        [user("a"), assistant("the le")], continue_final_message=True, tokenize=False
    )
    assert continued.endswith("assistant\nthe le")
