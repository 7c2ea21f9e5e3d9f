"""A conversation: chat messages as a template's text, and which letters are the assistant's."""

import re
import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .errors import WingsError, nearest

IMAGE = "<image>"
# An "<image>" that someone typed. As long as the placeholder, so that it changes no offset.
TYPED = "\ue0a1image\ue0a1"
# Stands for what the assistant said, to see what a template writes around it.
_MARK = "\ue0a2answer\ue0a2"
ROLES = ("system", "user", "assistant", "tool")
SOURCE_KEYS = ("image", "url", "path")

Span = tuple[int, int]
Render = Callable[[list[dict], bool], str]


@dataclass(frozen=True)
class Conversation:
    """Messages whose content is a string, with their images in reading order.

    Attributes:
        messages: as a chat template takes them; `IMAGE` stands for each image, `TYPED` for the same
            letters typed by someone.
        images: per message, its image sources; None for one that is given apart.
    """

    messages: list[dict] = field(default_factory=list)
    images: list[list] = field(default_factory=list)

    @property
    def all_images(self) -> list:
        """Every image source in reading order."""
        return [source for per_message in self.images for source in per_message]

    @classmethod
    def parse(cls, messages: Sequence[Mapping]) -> "Conversation":
        """Reads `{"role", "content"}` messages; content is a string or a list of parts.

        Args:
            messages: parts are `{"type": "text", "text": ..}` and `{"type": "image"}`, the latter
                with its source under `image`, `url` or `path`, or without (given apart).

        Raises:
            WingsError: an empty conversation, an unknown role or part (which).
        """
        if isinstance(messages, str | Mapping) or not messages:
            raise WingsError("a conversation is a list of at least one {'role', 'content'} message")
        conversation = cls()
        for index, message in enumerate(messages):
            where = f"message {index}"
            if not isinstance(message, Mapping) or "role" not in message:
                raise WingsError(f"{where} is {message!r:.80}; it must be {{'role', 'content'}}")
            if message["role"] not in ROLES:
                role = str(message["role"])
                raise WingsError(
                    f"{where} has the role {role!r}{nearest(role, ROLES)}; "
                    f"roles are {', '.join(ROLES)}"
                )
            text, images = _flatten(message, where)
            conversation.messages.append({**message, "content": text})
            conversation.images.append(images)
        return conversation

    def fill(self, sources: list) -> None:
        """Gives the images without a source the next of `sources`, which are used up."""
        for per_message in self.images:
            for index, source in enumerate(per_message):
                if source is None:
                    per_message[index] = sources.pop(0)

    def exchanges(self) -> list[int]:
        """Where each exchange begins: at every user message that answers no other user message."""
        roles = [message["role"] for message in self.messages]
        starts = [
            i for i, role in enumerate(roles) if role == "user" and (i == 0 or roles[i - 1] != role)
        ]
        return starts or [0]

    def without_oldest(self, count: int) -> "Conversation":
        """The conversation without its `count` oldest exchanges; what stands before them stays."""
        starts = self.exchanges()
        # Only a system message stays: an answer without its question goes with the oldest exchange.
        first = next(
            (i for i, m in enumerate(self.messages) if m["role"] != "system"), len(self.messages)
        )
        cut = first if not count else starts[count]
        keep = [*range(first), *range(cut, len(self.messages))]
        return Conversation([self.messages[i] for i in keep], [self.images[i] for i in keep])

    def shorten(self, length: Callable[["Conversation"], int], max_length: int) -> "Conversation":
        """The conversation without as many of its oldest exchanges as it takes to fit (warns).

        Args:
            length: tokens of a conversation.
            max_length: tokens that it may have.

        Raises:
            WingsError: the newest exchange alone is too long.
        """
        newest = len(self.exchanges()) - 1
        if length(self) <= max_length:
            return self
        last = self.without_oldest(newest)
        if length(last) > max_length:
            raise WingsError(
                f"the newest exchange takes {length(last)} tokens with its {len(last.all_images)} "
                f"images, more than max_length={max_length}; raise max_length or shorten it"
            )
        dropped = 1 + bisect_left(
            range(1, newest), True, key=lambda n: length(self.without_oldest(n)) <= max_length
        )
        warnings.warn(
            f"the {dropped} oldest of {newest + 1} exchanges of a conversation were dropped to fit "
            f"max_length={max_length}",
            stacklevel=4,
        )
        return self.without_oldest(dropped)

    def assistant_spans(self, render: Render, whole: str, special: Iterable[str]) -> list[Span]:
        """Letters [start, end) of `whole` that the assistant writes, end-of-turn token included.

        A turn begins where the template's generation prompt ends and ends behind the first special
        token after it. Both are seen by rendering the conversation up to the turn; where a template
        writes an older turn otherwise than the newest (thoughts left out, say), the turn is found
        by what stands around it.

        Args:
            render: (messages, add_generation_prompt) -> text, by the template that wrote `whole`.
            whole: the rendered conversation.
            special: the tokenizer's special tokens, among which is the one that ends a turn.

        Raises:
            WingsError: a template in which a turn cannot be found for certain (which turn).
        """
        ends = "|".join(re.escape(token) for token in sorted(special, key=len, reverse=True))
        turns = [i for i, message in enumerate(self.messages) if message["role"] == "assistant"]
        contents = _content_spans(self.messages, turns, render, whole)
        return [
            _turn_span(self.messages[: turn + 1], render, whole, ends, content)
            for turn, content in zip(turns, contents, strict=True)
        ]


def _flatten(message: Mapping, where: str) -> tuple[str, list]:
    content = message.get("content")
    if isinstance(content, str):
        return content.replace(IMAGE, TYPED), []
    if content is None and "tool_calls" in message:
        return "", []
    if not isinstance(content, Sequence) or isinstance(content, bytes) or not content:
        raise WingsError(f"{where} has no content; it must be a string or a list of parts")
    text, images = [], []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            text.append(part["text"].replace(IMAGE, TYPED))
        elif kind == "image":
            given = (part[key] for key in SOURCE_KEYS if part.get(key) is not None)
            images.append(next(given, None))
            text.append(IMAGE)
        else:
            raise WingsError(
                f"{where} has the part {part!r:.80}; parts are {{'type': 'text', 'text': ..}} "
                "and {'type': 'image', 'image': ..}"
            )
    return "".join(text), images


def _content_spans(
    messages: list[dict], turns: list[int], render: Render, whole: str
) -> list[Span | None]:
    """Where in `whole` each assistant's content stands, by what the template writes around it."""
    marked = [
        {**message, "content": _MARK} if index in turns else message
        for index, message in enumerate(messages)
    ]
    around = render(marked, False).split(_MARK)
    if len(around) != len(turns) + 1:
        return [None] * len(turns)
    spans: list[Span | None] = []
    position = 0
    for turn, before, after in zip(turns, around, around[1:], strict=False):
        position += len(before)
        content = messages[turn]["content"]
        for form in (content, content.strip(), content.lstrip(), content.rstrip()):
            end = position + len(form)
            if whole.startswith(before + form + after, position - len(before)):
                spans.append((position, end))
                position = end
                break
        else:
            # From here on nothing is certain: a turn that reads otherwise moves all that follow.
            return spans + [None] * (len(turns) - len(spans))
    return spans


def _turn_span(
    messages: list[dict], render: Render, whole: str, ends: str, content: Span | None
) -> Span:
    """The span of the last of `messages` in `whole`."""
    before, prompt = render(messages[:-1], False), render(messages[:-1], True)
    alone = render(messages, False)
    marked = render([*messages[:-1], {**messages[-1], "content": _MARK}], False)
    tail = marked.rpartition(_MARK)[2] if _MARK in marked else ""
    closing = re.match(rf"\s*(?:{ends})", tail) if ends else None
    has_prompt = prompt != before and whole.startswith(prompt)

    def starts_turn(first_letter: int) -> bool:
        return whole.startswith(prompt) and not whole[len(prompt) : first_letter].strip()

    if has_prompt and whole.startswith(alone) and alone.endswith(tail):
        ending = closing.group() if closing else tail
        return len(prompt), len(alone) - len(tail) + len(ending)
    if content is not None:
        first, last = content
        start = len(prompt) if has_prompt or starts_turn(first) else first
        if closing and whole.startswith(closing.group(), last):
            return start, last + closing.end()
        if not closing and whole.startswith(alone):
            return start, len(alone)
    raise WingsError(
        f"message {len(messages) - 1} (assistant) cannot be found for certain in what the chat "
        "template writes; give the template {% generation %} marks around the assistant's turns"
    )
