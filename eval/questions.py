"""The three kinds of questions that both models are asked, and what becomes of the pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

from .compare.comparison import Comparison
from .items import Item, without_pictures
from .models import EvalModel
from .runner import EvalRunner


@dataclass(frozen=True)
class Questions:
    """One kind of questions.

    Attributes:
        name: in report.json and on a progress bar.
        sentence: how each of the two models is asked, for a reader of the report.
        shown: whether the model is shown the pictures; the LLM never is.
    """

    name: str
    sentence: str
    shown: bool

    @property
    def title(self) -> str:
        """The headline in a report."""
        return self.name.capitalize()


TEXT = Questions(
    "text",
    "Text questions asked alone, the same ones to both. Percent right (word for word, or where an "
    "item says so by naming the answer), with Wilson's 95% intervals; the difference is paired, "
    "item by item, with a bootstrap interval; -/+ counts the items that were lost and won.",
    shown=False,
)
PICTURES = Questions(
    "pictures",
    "Questions about pictures. The LLM is asked the same questions without the pictures: what it "
    "gets right is guessed, and the paired difference is what seeing adds.",
    shown=True,
)
CONVERSATIONS = Questions(
    "conversations",
    "Conversations with a picture in them whose last question is about text (mixed). The LLM is "
    "given the same conversations without their pictures; the last turn is scored.",
    shown=True,
)


def measure_questions(
    questions: Questions,
    llm: EvalModel,
    model: EvalModel,
    items: Sequence[Item],
    runner: EvalRunner,
) -> Comparison:
    """The model's answers to items, and the LLM's to the same items without their pictures."""
    # Many templates take a text as a string alone, none of them refuses one.
    blind = [without_pictures(item) for item in items]
    asked = items if questions.shown else blind
    before = runner.answers(llm, blind, f"{questions.name}: the LLM{', blind' * questions.shown}")
    after = runner.answers(model, asked, f"{questions.name}: the model")
    return Comparison(questions.title, questions.sentence, asked, before, after, runner.seed)
