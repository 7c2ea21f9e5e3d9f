"""Conversations: chat messages with items in reading order, and the assistant's spans."""

import re
import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from wings.errors import WingsError, nearest

from .typed_letters import TypedLetters

IMAGE_TOKEN = "<image>"
IMAGES_ONLY = TypedLetters([IMAGE_TOKEN])
# Replaces the assistant's words, to see what a template writes around them.
_MARK = "\ue0a2answer\ue0a2"
ROLES = ("system", "user", "assistant", "tool")
SOURCE_KEYS = ("url", "path", "base64")
# Parts of OpenAI's messages, and the sense of each.
OF_OPENAI = {
    "image_url": "image",
    "input_audio": "audio",
    "audio_url": "audio",
    "video_url": "video",
}

Span = tuple[int, int]
Render = Callable[[list[dict], bool], str]


class Item(NamedTuple):
    """An image or a sound of a message: its sense and its source, None if that is given apart."""

    sense: str
    source: Any


@dataclass(frozen=True)
class Conversation:
    """Messages whose content is a string, with their items in reading order.

    Attributes:
        messages: as a chat template takes them; `<image>` stands for each image and `<audio>` for
            each sound, a stand-in for the same letters typed by someone, wherever they are in the
            message.
        items: per message, its images and sounds.
    """

    messages: list[dict] = field(default_factory=list)
    items: list[list[Item]] = field(default_factory=list)

    def sources(self, sense: str) -> list:
        """Every source of a sense in reading order."""
        return [one.source for items in self.items for one in items if one.sense == sense]

    @property
    def senses(self) -> list[str]:
        """The senses of its items, each once."""
        return list(dict.fromkeys(one.sense for items in self.items for one in items))

    @classmethod
    def parse(
        cls, messages: Sequence[Mapping], letters: TypedLetters = IMAGES_ONLY
    ) -> "Conversation":
        """Reads `{"role", "content"}` messages; content is a string or a list of parts.

        Args:
            messages: parts are `{"type": "text", "text": ..}`, `{"type": "image"}` and
                `{"type": "audio"}`, the latter two with their source under `image` or `audio`,
                `url`, `path` or `base64`, or without (given apart), or OpenAI's
                `{"type": "image_url", "image_url": {"url": ..}}` (`audio_url` likewise) and
                `{"type": "input_audio", "input_audio": {"data": ..}}`. A key whose value is None
                counts as absent, as data sets fill in missing keys. Videos are read before, see
                `wings/processing/video_parts.py`.
            letters: tokens that are only letters in what someone says, `<image>` among them.

        Raises:
            WingsError: an empty conversation, an unknown role or part (which).
        """
        if isinstance(messages, str | Mapping) or not messages:
            raise WingsError(
                "A conversation must be a list of at least one {'role', 'content'} message."
            )
        conversation = cls()
        for index, message in enumerate(messages):
            where = f"Message {index}"
            if not isinstance(message, Mapping) or "role" not in message:
                raise WingsError(f"{where} is {message!r:.80}; it must be {{'role', 'content'}}.")
            if message["role"] not in ROLES:
                role = str(message["role"])
                raise WingsError(
                    f"{where} has the role {role!r}{nearest(role, ROLES)}; "
                    f"roles are {', '.join(ROLES)}."
                )
            text, items = _flatten(message, where, letters)
            said = {
                key: letters.hide(value)
                for key, value in message.items()
                if key != "content" and value is not None
            }
            conversation.messages.append({**said, "content": text})
            conversation.items.append(items)
        return conversation

    def fill(self, sense: str, sources: list) -> None:
        """Gives each item of a sense without a source the next of `sources`, and removes it."""
        for items in self.items:
            for index, item in enumerate(items):
                if item == (sense, None):
                    items[index] = Item(sense, sources.pop(0))

    def loaded(self, load: Callable[[str, Any], Any]) -> "Conversation":
        """A copy with `load(sense, source)` in place of each source."""
        items = [[Item(one.sense, load(*one)) for one in items] for items in self.items]
        return Conversation(self.messages, items)

    def exchanges(self) -> list[int]:
        """Indices of the messages that begin an exchange: user messages not after another one."""
        roles = [message["role"] for message in self.messages]
        starts = [
            i for i, role in enumerate(roles) if role == "user" and (i == 0 or roles[i - 1] != role)
        ]
        return starts or [0]

    def without_oldest(self, count: int) -> "Conversation":
        """Returns the conversation without its `count` oldest exchanges; system messages stay."""
        starts = self.exchanges()
        # Only a system message stays: an answer without its question goes with the oldest exchange.
        first = next(
            (i for i, m in enumerate(self.messages) if m["role"] != "system"), len(self.messages)
        )
        cut = first if not count else starts[count]
        keep = [*range(first), *range(cut, len(self.messages))]
        return Conversation([self.messages[i] for i in keep], [self.items[i] for i in keep])

    def shorten(self, length: Callable[["Conversation"], int], max_length: int) -> "Conversation":
        """Drops as many of the oldest exchanges as needed to fit, with a warning.

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
                f"The newest exchange takes {length(last)} tokens with its "
                f"{sum(map(len, last.items))} {_nouns(last)}, more than max_length={max_length}; "
                f"raise max_length or shorten it."
            )
        dropped = 1 + bisect_left(
            range(1, newest), True, key=lambda n: length(self.without_oldest(n)) <= max_length
        )
        warnings.warn(
            f"The {dropped} oldest of {newest + 1} exchanges of a conversation were dropped to fit "
            f"max_length={max_length}.",
            stacklevel=4,
        )
        return self.without_oldest(dropped)

    def assistant_spans(self, render: Render, whole: str, special: Iterable[str]) -> list[Span]:
        """Finds the letters [start, end) of the assistant's turns in `whole`, end token included.

        A turn begins where the template's generation prompt ends, and ends after the first special
        token that follows. Rendering the conversation up to the turn shows both. Some templates
        render an older turn differently from the newest (without thoughts, say); such a turn is
        found by the text around it.

        Args:
            render: (messages, add_generation_prompt) -> text, by the template that wrote `whole`.
            whole: the rendered conversation.
            special: the tokenizer's special tokens, among which is the one that ends a turn.

        Raises:
            WingsError: a template in which a turn cannot be found for certain (which turn).
        """
        ends = "|".join(re.escape(token) for token in sorted(special, key=len, reverse=True))
        turns = [i for i, message in enumerate(self.messages) if message["role"] == "assistant"]
        return [_turn_span(self.messages, turn, render, whole, ends) for turn in turns]


def _nouns(conversation: Conversation) -> str:
    return "images" if conversation.senses in ([], ["image"]) else "images and sounds"


def _flatten(message: Mapping, where: str, letters: TypedLetters) -> tuple[str, list[Item]]:
    content = message.get("content")
    if isinstance(content, str):
        return letters.hide(content), []
    if content is None and message.get("tool_calls"):
        return "", []
    if not isinstance(content, Sequence) or isinstance(content, bytes) or not content:
        raise WingsError(f"{where} has no content; it must be a string or a list of parts.")
    # Text parts are joined first: "<image" and ">" in two parts are typed letters too.
    runs: list[str] = [""]
    items: list[Item] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        sense = OF_OPENAI.get(kind, kind) if isinstance(kind, str) else None
        if kind == "text" and isinstance(part.get("text"), str):
            runs[-1] += part["text"]
        elif sense in ("image", "audio") and (kind == sense or part.get(kind)):
            items.append(Item(sense, source_of(part, sense)))
            runs.append("")
        else:
            raise WingsError(
                f"{where} has the part {part!r:.80}; parts are {{'type': 'text', 'text': ..}}, "
                "{'type': 'image', 'image': ..}, {'type': 'audio', 'audio': ..} and "
                "{'type': 'video', 'video': ..}."
            )
    text = letters.hide(runs[0])
    for item, run in zip(items, runs[1:], strict=True):
        text += f"<{item.sense}>{letters.hide(run)}"
    return text, items


def source_of(part: Mapping, kind: str) -> Any:
    """The source of a part that is no text, as its reader takes it; None if it is given apart.

    Args:
        part: of a message, in our form or in OpenAI's.
        kind: "image", "audio" or "video".
    """
    if part.get("type") in OF_OPENAI:
        return _source_of_openai(part.get(part["type"]), kind)
    for key in (kind, *SOURCE_KEYS):
        if part.get(key) is not None:
            is_bare = key == "base64" and not str(part[key]).startswith("data:")
            return f"data:{kind};base64,{part[key]}" if is_bare else part[key]
    return None


def _source_of_openai(given: Any, kind: str) -> Any:
    """The source of a part of OpenAI's messages: an address, or a mapping with one or data."""
    if not isinstance(given, Mapping):
        return given
    if given.get("data") is not None:
        return f"data:{kind};base64,{given['data']}"
    return given.get("url")


def _turn_span(messages: list[dict], turn: int, render: Render, whole: str, ends: str) -> Span:
    """Finds the span in `whole` of the assistant's message number `turn`."""
    earlier = messages[:turn]
    marked = {**messages[turn], "content": _MARK}
    before, prompt = render(earlier, False), render(earlier, True)
    alone = render(messages[: turn + 1], False)
    _, opaque, tail = render([*earlier, marked], False).rpartition(_MARK)
    closing = re.match(rf"\s*(?:{ends})", tail) if ends else None
    ending = closing.group() if closing else tail
    has_prompt = prompt != before and whole.startswith(prompt)
    if opaque and has_prompt and whole.startswith(alone) and alone.endswith(tail):
        return len(prompt), len(alone) - len(tail) + len(ending)

    # Not a prefix of the whole: render a mark in place of the content, and take what is between
    # the text before and after the mark.
    head, opaque, rest = render([*earlier, marked, *messages[turn + 1 :]], False).partition(_MARK)
    first, last = len(head), len(whole) - len(rest)
    if opaque and first <= last and whole.startswith(head) and whole.endswith(rest):
        if has_prompt or (whole.startswith(prompt) and not whole[len(prompt) : first].strip()):
            first = min(first, len(prompt))
        if rest.startswith(ending) and (closing or whole.startswith(alone)):
            return first, last + len(ending)
    raise WingsError(
        f"Message {turn} (assistant) cannot be located in the rendered chat template; "
        "add {% generation %} marks around the assistant's turns to the template."
    )
