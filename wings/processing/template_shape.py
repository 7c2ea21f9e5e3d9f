"""Text that a chat template writes around messages of one shape, and a check that it has all."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from wings.errors import WingsError

Render = Callable[[list[dict], bool], str]

# Private letters around the number of a message, in place of its content.
_MARK = re.compile("\ue0a2(\\d+)\ue0a3")
# What may end thoughts, which templates cut off older answers.
_THOUGHTS_END = re.compile(r"</\w+>|\[/\w+\]|<\|[^|<>]*\|>")
# A word for the template, such as /no_think, which it takes out of a system message.
_COMMAND = re.compile(r"\s*(?<!\S)/\w+")
# Seconds that a template may take for messages of a few letters.
SECONDS = 20.0


class EndlessTemplate(WingsError):
    """The chat template does not end in time."""


def mark(number: int) -> str:
    """Letters that no message has and that no template changes, for message `number`."""
    return f"\ue0a2{number}\ue0a3"


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Ends the block with a `WingsError` if its Python code runs longer than this."""
    end = time.monotonic() + seconds
    before = sys.gettrace()

    def watch(frame: Any, event: str, argument: Any) -> Any:
        if time.monotonic() > end:
            raise EndlessTemplate(
                f"The chat template did not end within {seconds:g} seconds; it may loop."
            )
        return watch

    sys.settrace(watch)
    try:
        yield
    finally:
        sys.settrace(before)


@dataclass(frozen=True)
class TemplateShape:
    """The text that a template writes around the contents of messages.

    Attributes:
        pieces: text before the first content, between contents and after the last.
        order: the message number of each content, in the order of the text.
    """

    pieces: tuple[str, ...]
    order: tuple[int, ...]

    @classmethod
    def of(
        cls, messages: Sequence[dict], render: Render, add_generation_prompt: bool
    ) -> "TemplateShape | None":
        """The shape of messages, rendered with marks in place of what they say.

        Returns:
            the shape; None for a template that refuses marks because it reads contents, as JSON
            for example.

        Raises:
            WingsError: a message that the template leaves out or writes more than once.
        """
        marked = [
            {**message, "content": message["content"] and mark(number)}
            for number, message in enumerate(messages)
        ]
        if newest_thoughts(messages):
            # Those of older answers may be left out.
            marked[-1]["reasoning_content"] = mark(len(messages))
        try:
            with deadline(SECONDS):
                text = render(marked, add_generation_prompt)
        except EndlessTemplate:
            raise
        except WingsError:
            return None
        parts = _MARK.split(text)
        order = tuple(int(number) for number in parts[1::2])
        for number, said in enumerate(_said(messages)):
            if said and (count := order.count(number)) != 1:
                what = "leaves out" if not count else f"writes {count} times"
                raise WingsError(
                    f"The chat template {what} {_name(messages, number)}; use a template that "
                    "writes what each message says once."
                )
        return cls(tuple(parts[::2]), order)

    def validate(self, messages: Sequence[dict], text: str) -> None:
        """Raises a `WingsError` if `text`, rendered from `messages`, lacks something said.

        Space around a content may be cut, thoughts of an answer too, and commands such as
        `/no_think` in a system message. A tool's result may be written as JSON.
        """
        said = _said(messages)
        contents = [said[number] for number in self.order]
        _validate_calls(messages, text)
        for forms in (contents, [content.strip() for content in contents]):
            if text == self._joined(forms):
                return
        place = 0
        for number, content in zip(self.order, contents, strict=True):
            role = messages[min(number, len(messages) - 1)]["role"]
            for form in _forms(content, role):
                start = text.find(form, place)
                if start >= 0:
                    place = start + len(form)
                    break
            else:
                raise WingsError(
                    f"The chat template changes {_name(messages, number)}, "
                    f"{content.strip()[:40]!r}; use a template that writes it as it is."
                )

    def _joined(self, contents: Sequence[str]) -> str:
        pairs = zip(self.pieces, [*contents, ""], strict=True)
        return "".join(part for pair in pairs for part in pair)


def newest_thoughts(messages: Sequence[dict]) -> str:
    """The `reasoning_content` of the last message, if it is an answer."""
    thoughts = messages[-1].get("reasoning_content")
    return thoughts if messages[-1]["role"] == "assistant" and isinstance(thoughts, str) else ""


def _said(messages: Sequence[dict]) -> list[str]:
    """The contents of all messages, and last the newest thoughts."""
    return [*(message["content"] for message in messages), newest_thoughts(messages)]


def _name(messages: Sequence[dict], number: int) -> str:
    if number == len(messages):
        return "the reasoning_content of the last message"
    return f"message {number} ({messages[number]['role']})"


def _validate_calls(messages: Sequence[dict], text: str) -> None:
    for number, message in enumerate(messages):
        for call in message.get("tool_calls") or ():
            inner = call.get("function", call) if isinstance(call, dict) else {}
            name = inner.get("name") if isinstance(inner, dict) else None
            if isinstance(name, str) and name not in text:
                raise WingsError(
                    f"The chat template leaves out the tool call {name[:40]!r} of message "
                    f"{number}; use a template that writes tool calls."
                )


def _forms(content: str, role: str) -> Iterator[str]:
    """The forms in which a template may write a content."""
    yield content.strip()
    if role == "system":
        yield _COMMAND.sub("", content).strip()
    if role == "assistant":
        yield _THOUGHTS_END.split(content)[-1].strip()
    if role == "tool":
        yield json.dumps(content, ensure_ascii=False)[1:-1]
