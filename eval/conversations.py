"""Interleaved conversations: a text question after a picture, where forgetting hides."""

from collections.abc import Sequence

from .comparison import Comparison
from .items import Item
from .subject import Subject
from .text import as_text
from .work import Work

SENTENCE = (
    "Conversations with a picture in them whose last question is about text (mixed). The LLM is "
    "given the same conversations without their pictures; the last turn is scored."
)


def measure_conversations(
    llm: Subject, model: Subject, items: Sequence[Item], work: Work
) -> Comparison:
    """The model's last turns, and the LLM's in the same conversations without pictures."""
    blind = [as_text(item) for item in items]
    before = work.answers(llm, blind, "conversations: the LLM, blind")
    after = work.answers(model, items, "conversations: the model")
    return Comparison("Conversations", SENTENCE, items, before, after, work.seed)
