"""Chat templates that mark the assistant's turns: the text and the letters of each turn.

A tokenizer's `apply_chat_template` returns a mask over tokens. Wings tokenises the text itself,
around images, so it needs the letters, which transformers' own rendering function returns.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from .contract import Contract


def render_with_spans(
    messages: Sequence[Mapping[str, Any]], template: str, variables: Mapping[str, Any]
) -> tuple[str, list[tuple[int, int]]]:
    """Return the text of a conversation and the letters [start, end) of its generated parts.

    Relied on since transformers 5.17: the private function takes several conversations and returns
    a list of texts and, on request, a list of spans for each, though its annotation says `str`.

    Args:
        messages: one conversation.
        template: Jinja source that marks the assistant's turns with `{% generation %}`.
        variables: of the template: special tokens, `tools`, `documents` and others.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered: Any = render_jinja_template(
        conversations=[cast("Any", messages)],
        chat_template=template,
        return_assistant_tokens_mask=True,
        **variables,
    )
    (text,), (spans,) = rendered
    return text, spans


def _check_spans() -> None:
    """The letters of a generated part are found, variables are passed on."""
    template = (
        "{% for message in messages %}{{ mark }}"
        "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}"
        "{% endgeneration %}{% else %}{{ message.content }}{% endif %}{% endfor %}"
    )
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "bc"}]
    text, spans = render_with_spans(messages, template, {"mark": "|"})
    assert text == "|a|bc", f"the text is {text!r}"
    assert [tuple(span) for span in spans] == [(3, 5)], f"the spans are {spans}"


CONTRACTS = (
    Contract(
        library="transformers",
        since="5.17",
        sentence="render_jinja_template returns texts and, for each, the letters of its parts "
        "between {% generation %} and {% endgeneration %}",
        members=(
            "transformers.utils.chat_template_utils:render_jinja_template"
            "(conversations, chat_template, return_assistant_tokens_mask)",
        ),
        check=_check_spans,
    ),
)
