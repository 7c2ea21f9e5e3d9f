"""A language model's chat template: renders messages and finds the letters to learn."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from wings.errors import WingsError, nearest
from wings.upstream.chat_template import render_with_spans

from .conversation import IMAGE_TOKEN, Conversation, Span
from .template_shape import SECONDS, EndlessTemplate, TemplateShape, deadline, mark
from .text_options import TextOptions
from .typed_letters import TypedLetters

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
# Names that a misspelt option may have meant.
_NEAR = (
    "tokenize", "return_dict", "return_tensors", "add_generation_prompt", "return_labels",
    "return_assistant_tokens_mask", "processor_kwargs", "documents", "images", "tools",
    "chat_template", "continue_final_message", *TextOptions.names(),
)  # fmt: skip
# Options of a tokenizer's apply_chat_template that are no variables of the template.
_OPTIONS = ("chat_template", "continue_final_message")
_ERRORS = (
    TemplateError, ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError,
    TypeError, ValueError,
)  # fmt: skip
_SAID = ("role", "content")
# Results that are kept per tokenizer; conversations have few numbers of turns.
_MOST_KEPT = 256
_KEPT: "WeakKeyDictionary[Any, dict[Any, Any]]" = WeakKeyDictionary()
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class ChatTemplate:
    """The chat template of a tokenizer.

    Attributes:
        tokenizer: has the template and its special tokens.
        options: variables of the template (`enable_thinking`, `tools`, ...).
        placeholders: of the items of all senses, such as `<image>`.
    """

    tokenizer: PreTrainedTokenizerBase
    options: dict[str, Any] = field(default_factory=dict)
    placeholders: tuple[str, ...] = (IMAGE_TOKEN,)

    @property
    def source(self) -> str:
        """The Jinja text.

        Raises:
            WingsError: the tokenizer has no template.
        """
        if not self.tokenizer.chat_template and "chat_template" not in self.options:
            raise WingsError(
                "The tokenizer has no chat template; set processor.chat_template to the one that "
                "the language model was trained with."
            )
        options = {name: self.options.get(name) for name in ("chat_template", "tools")}
        try:
            return self.tokenizer.get_chat_template(**options)
        except ValueError as error:
            raise WingsError(f"There is no such chat template ({error}).") from error

    @classmethod
    def of(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        options: dict[str, Any],
        placeholders: tuple[str, ...] = (IMAGE_TOKEN,),
    ) -> tuple["ChatTemplate", TypedLetters]:
        """The template with these options, and the tokens that nobody can type.

        Args:
            tokenizer: has the template.
            options: variables of the template.
            placeholders: of the items of all senses, such as `<image>`.

        Raises:
            WingsError: an option that the template does not read, or no template.
        """
        template = cls(tokenizer, options, placeholders)
        template._validate_options()
        letters = template.letters()
        hidden = {
            name: value if name == "chat_template" else letters.hide(value)
            for name, value in template.options.items()
        }
        return cls(tokenizer, hidden, placeholders), letters

    def write(self, conversation: Conversation, add_generation_prompt: bool) -> str:
        """Renders a conversation.

        Raises:
            WingsError: as `render` and `validate`.
        """
        text = self.render(conversation.messages, add_generation_prompt)
        self.validate(conversation, add_generation_prompt, text)
        return text

    def _validate_options(self) -> None:
        for name, value in self.options.items():
            is_read = name in _OPTIONS or re.search(rf"\b{re.escape(name)}\b", self.source)
            if value is not None and not is_read:
                raise WingsError(
                    f"There is no option '{name}'{nearest(name, _NEAR)}, and the chat template "
                    "has no variable of this name; remove it."
                )

    def letters(self) -> TypedLetters:
        """The tokens that are only letters in what someone says: placeholders, control tokens."""
        key = ("letters", self.source, len(self.tokenizer), self.placeholders)
        return self.kept(key, lambda: TypedLetters([*self.placeholders, *self._control_tokens()]))

    def _control_tokens(self) -> list[str]:
        """Special tokens with which the template and the tokenizer mark the parts of a text."""
        tokenizer, source = self.tokenizer, self.source
        ends = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token}
        special = {*tokenizer.all_special_tokens} | {
            token.content for token in tokenizer.added_tokens_decoder.values() if token.special
        }
        # Letters that the tokenizer does not know may have the id of the unknown token.
        unknown = tokenizer.unk_token_id
        return [
            token
            for token in special
            if (token in ends or token in source)
            and tokenizer.convert_tokens_to_ids(token) != unknown
        ]

    def render(self, messages: list[dict], add_generation_prompt: bool) -> str:
        """Renders messages whose content is a string.

        A template that reads content as a list of parts is given one part of text.

        Raises:
            WingsError: no template, or one that refuses the messages.
        """
        return self._render(messages, add_generation_prompt, self._roles_of_parts(messages))

    def shaped(self, messages: list[dict]) -> list[dict]:
        """The messages with content as one part of text wherever the template reads parts.

        Content that is a list, as with pictures, stays.

        Raises:
            WingsError: no template.
        """
        return _shaped(messages, self._roles_of_parts(messages))

    def validate(self, conversation: Conversation, add_generation_prompt: bool, text: str) -> None:
        """Raises a `WingsError` unless the rendered `text` has all that was said, exactly once."""
        messages = conversation.messages
        options = tuple((name, repr(value)) for name, value in sorted(self.options.items()))
        shape = tuple(
            (m["role"], bool(m["content"]), repr({k: m[k] for k in m if k not in _SAID}))
            for m in messages
        )
        key = (self.source, options, add_generation_prompt, shape)
        made = self.kept(
            key, lambda: TemplateShape.of(messages, self.render, add_generation_prompt)
        )
        if made is not None:
            made.validate(messages, text)

    def spans(self, conversation: Conversation, text: str) -> list[Span]:
        """Finds the letters [start, end) of the assistant's turns in the rendered `text`.

        Uses the template's `{% generation %}` marks where it has them, and else searches.

        Raises:
            WingsError: a turn that cannot be found for certain.
        """
        template = self.source
        if not _GENERATION.search(template):
            special = {*self.tokenizer.all_special_tokens, *self.tokenizer.get_added_vocab()}
            return conversation.assistant_spans(self.render, text, special)
        variables = {**self.tokenizer.special_tokens_map, **self.options}
        for name in _OPTIONS:
            variables.pop(name, None)
        messages = self.shaped(conversation.messages)
        rendered, spans = render_with_spans(messages, template, variables)
        turns = sum(message["role"] == "assistant" for message in conversation.messages)
        if not text.startswith(rendered) or len(spans) < turns:
            raise WingsError(
                f"The chat template marks {len(spans)} of {turns} assistant turns with "
                "{% generation %}; mark all or none."
            )
        return spans

    def _render(self, messages: list[dict], add_generation_prompt: bool, as_parts: set[str]) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                _shaped(messages, as_parts),
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **self.options,
            )
        except WingsError:
            raise
        # Templates and their filters raise errors of Jinja and of Python.
        except _ERRORS as error:
            raise WingsError(f"The chat template cannot render the messages ({error}).") from error
        # For one conversation that is not tokenised, the method returns a string.
        return self.letters().unescaped(cast(str, text))

    def _roles_of_parts(self, messages: list[dict]) -> set[str]:
        """The roles of these messages whose content the template reads as a list of parts."""
        source, roles = self.source, {message["role"] for message in messages}
        return {role for role in roles if self._reads_parts(source, role)}

    def _reads_parts(self, source: str, role: str) -> bool:
        """True if the template writes content of this role only where it is a list of parts."""
        return self.kept((source, role), lambda: self._tries_parts(role))

    def _tries_parts(self, role: str) -> bool:
        said = {"role": role, "content": mark(0)}
        before = [] if role in ("user", "system") else [{"role": "user", "content": "a"}]
        after = [{"role": "user", "content": "a"}] if role == "system" else []
        # Other roles may want parts too; what they say does not matter here.
        others = {"user"} if role != "user" and self._reads_parts(self.source, "user") else set()
        given = {k: v for k, v in self.options.items() if k == "chat_template"}
        bare = ChatTemplate(self.tokenizer, given)
        for as_parts in (others, others | {role}):
            try:
                with deadline(SECONDS):
                    text = bare._render([*before, said, *after], False, as_parts)
            except EndlessTemplate:
                raise
            except WingsError:
                continue
            if mark(0) in text:
                return role in as_parts
        return False

    def kept(self, key: Any, make: Callable[[], _Result]) -> _Result:
        """The result of `make`, which is called once per tokenizer and key."""
        try:
            results: dict[Any, _Result] = _KEPT.setdefault(self.tokenizer, {})
        except TypeError:
            return make()
        if key not in results:
            if len(results) >= _MOST_KEPT:
                results.clear()
            results[key] = make()
        return results[key]


def _shaped(messages: list[dict], as_parts: set[str]) -> list[dict]:
    """The messages, with content as one part of text for the roles in `as_parts`."""
    if not as_parts:
        return messages
    return [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        if message["role"] in as_parts and isinstance(message["content"], str)
        else message
        for message in messages
    ]
