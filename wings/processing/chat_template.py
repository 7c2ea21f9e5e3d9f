"""A language model's chat template: renders messages and finds the letters to learn."""

import re
from dataclasses import dataclass
from typing import Any, cast

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from wings.errors import WingsError
from wings.upstream.chat_template import render_with_spans

from .conversation import Conversation, Span

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class ChatTemplate:
    """The chat template of a tokenizer.

    Attributes:
        tokenizer: has the template and its special tokens.
        options: variables of the template (`enable_thinking`, `tools`, ...).
    """

    tokenizer: PreTrainedTokenizerBase
    options: dict[str, Any]

    def render(self, messages: list[dict], add_generation_prompt: bool) -> str:
        """Renders messages whose content is a string.

        Raises:
            WingsError: no template, or one that refuses the messages.
        """
        if not self.tokenizer.chat_template and "chat_template" not in self.options:
            raise WingsError(
                "The tokenizer has no chat template; set processor.chat_template to the one that "
                "the language model was trained with."
            )
        try:
            text = self.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **self.options,
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise WingsError(f"The chat template cannot render the messages ({error}).") from error
        # For one conversation that is not tokenised, the method returns a string.
        return cast(str, text)

    def spans(self, conversation: Conversation, text: str) -> list[Span]:
        """Finds the letters [start, end) of the assistant's turns in the rendered `text`.

        Uses the template's `{% generation %}` marks where it has them, and else searches.

        Raises:
            WingsError: a turn that cannot be found for certain.
        """
        template = self.tokenizer.get_chat_template(self.options.get("chat_template"))
        if not _GENERATION.search(template):
            special = {*self.tokenizer.all_special_tokens, *self.tokenizer.get_added_vocab()}
            return conversation.assistant_spans(self.render, text, special)
        variables = {**self.tokenizer.special_tokens_map, **self.options}
        variables.pop("chat_template", None)
        rendered, spans = render_with_spans(conversation.messages, template, variables)
        turns = sum(message["role"] == "assistant" for message in conversation.messages)
        if not text.startswith(rendered) or len(spans) < turns:
            raise WingsError(
                f"The chat template marks {len(spans)} of {turns} assistant turns with "
                "{% generation %}; mark all or none."
            )
        return spans
