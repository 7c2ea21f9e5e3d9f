"""Text alone, before and after: what was forgotten."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .comparison import Comparison
from .items import Item
from .subject import Subject
from .work import Work

SENTENCE = (
    "Text questions asked alone, the same ones to both. Percent right (word for word, or where an "
    "item says so by naming the answer), with Wilson's 95% intervals; the difference is paired, "
    "item by item, with a bootstrap interval; -/+ counts the items that were lost and won."
)


def measure_text(llm: Subject, model: Subject, items: Sequence[Item], work: Work) -> Comparison:
    """Both models' answers to items without pictures."""
    # Many templates take a text as a string alone, none of them refuses one.
    items = [as_text(item) for item in items]
    before = work.answers(llm, items, "text: the LLM")
    after = work.answers(model, items, "text: the model")
    return Comparison("Text", SENTENCE, items, before, after, work.seed)


def as_text(item: Item) -> Item:
    """The item without its pictures: every content one string."""
    messages = (m | {"content": text_of(m["content"])} for m in item.messages)
    return replace(item, messages=tuple(messages))


def text_of(content: str | Sequence[dict[str, Any]]) -> str:
    """The text of a message's content."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def pictures_of(item: Item) -> list[Any]:
    """The pictures of a conversation, in reading order."""
    parts = (m["content"] for m in item.messages if not isinstance(m["content"], str))
    return [part["image"] for content in parts for part in content if part["type"] == "image"]
