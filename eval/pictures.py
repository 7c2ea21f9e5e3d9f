"""Questions about pictures: what was learned, beside what the LLM says without the picture."""

from collections.abc import Sequence

from .comparison import Comparison
from .items import Item
from .subject import Subject
from .text import as_text
from .work import Work

SENTENCE = (
    "Questions about pictures. The LLM is asked the same questions without the pictures: what it "
    "gets right is guessed, and the paired difference is what seeing adds."
)


def measure_pictures(llm: Subject, model: Subject, items: Sequence[Item], work: Work) -> Comparison:
    """The model's answers, and the LLM's to the same questions without their pictures."""
    blind = [as_text(item) for item in items]
    before = work.answers(llm, blind, "pictures: the LLM, blind")
    after = work.answers(model, items, "pictures: the model")
    return Comparison("Pictures", SENTENCE, items, before, after, work.seed)
