"""Evaluates a model against the LLM it was built from, with every measurement that applies."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from wings.errors import WingsError

from .attention.attention_shift import measure_attention_shift
from .compare.after_image import AfterImage
from .compare.clusters import cluster_items
from .compare.comparison import Comparison
from .data import EvalData
from .drift import measure_drift
from .harness.comparison import TaskComparison
from .image_drift import measure_image_drift
from .items import Item, pictures_of, question_alone, without_pictures
from .models import EvalModel, tokenizer_difference
from .report.report import Sample, Section
from .runner import EvalRunner
from .verdict import verdict


@dataclass(frozen=True)
class Questions:
    """A kind of questions that both models are asked.

    Attributes:
        name: in report.json and on a progress bar.
        sentence: explains in the report how each of the two is asked.
        with_pictures: True if the model is shown the pictures; the LLM never is.
    """

    name: str
    sentence: str
    with_pictures: bool


TEXT = Questions(
    "text",
    "Text questions, the same ones to both models. Percent right (word for word, or as the item's "
    "scoring says), with 95% intervals (Wilson's, unless questions share an image or a cluster). "
    "The difference is paired, item by item, with a bootstrap interval; -/+ counts the items that "
    "were lost and won.",
    with_pictures=False,
)
PICTURES = Questions(
    "pictures",
    "Questions about pictures. The LLM is asked the same questions without the pictures: what it "
    "gets right is guessed, and the paired difference is the gain from seeing.",
    with_pictures=True,
)
CONVERSATIONS = Questions(
    "conversations",
    "Conversations with a picture whose last question is about text (mixed). The LLM is given the "
    "same conversations without their pictures; the last turn is scored.",
    with_pictures=True,
)
ALONE = Questions(
    "alone",
    "The last questions of the conversations, asked alone.",
    with_pictures=False,
)


class Measurement(Protocol):
    """A result that a report shows."""

    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""

    def section(self) -> Section:
        """The report's section."""


@dataclass(frozen=True)
class Evaluation:
    """Measurements by name, and sentences on those that were skipped."""

    measurements: dict[str, Measurement]
    notes: Sequence[str]

    @property
    def sections(self) -> list[Section]:
        """The report's sections."""
        return [measurement.section() for measurement in self.measurements.values()]

    @property
    def samples(self) -> dict[str, list[Sample]]:
        """Answers side by side, by title."""
        return {
            one.title: one.samples()
            for one in self.measurements.values()
            if isinstance(one, Comparison | TaskComparison)
        }

    @property
    def verdict(self) -> list[str]:
        """One line each on text alone, text after an image, and images."""
        return verdict(self.measurements)

    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        return {name: one.to_dict() for name, one in self.measurements.items()}


def evaluate(llm: EvalModel, model: EvalModel, data: EvalData, runner: EvalRunner) -> Evaluation:
    """Measures text, pictures, conversations, tasks, attention and drift; all ranks must call it.

    A model without vision is not shown pictures. The attention shift is skipped for a model whose
    attention cannot be measured, and the drift if the tokenizers differ. The notes report all of
    these.
    """
    measurements: dict[str, Measurement] = {}
    notes = []
    groups = ((TEXT, data.text), (PICTURES, data.pictures), (CONVERSATIONS, data.conversations))
    for questions, items in groups:
        if items and questions.with_pictures and not model.sees:
            notes.append(
                f"{questions.name.capitalize()} are skipped: {model.name} is a plain "
                f"'{model.kind}' model, which takes no pictures."
            )
        elif items:
            measurements[questions.name] = measure_questions(questions, llm, model, items, runner)
    after = measurements.get(CONVERSATIONS.name)
    if isinstance(after, Comparison):
        alone = measure_questions(ALONE, llm, model, questions_alone(after.items), runner)
        measurements["after_image"] = AfterImage(alone, after)
    if data.tasks is not None:
        # The harness is a large optional package.
        from .harness.measure import measure_tasks

        measurements["tasks"] = tasks = measure_tasks(llm, model, data.tasks, runner)
        notes += tasks.notes
    # Any conversation with a picture has text before and after it.
    visible = [item for item in data.conversations or data.pictures if pictures_of(item)]
    if visible and model.sees:
        try:
            measurements["attention"] = measure_attention_shift(llm, model, visible, runner)
        except WingsError as error:
            notes.append(f"The attention shift is skipped: {error}")
    if data.held_out or after:
        difference = tokenizer_difference(llm.tokenizer, model.tokenizer)
        if difference:
            notes.append(
                f"The drift is skipped: the tokenizers of {llm.name} and {model.name} differ "
                f"({difference}), so their next tokens cannot be compared."
            )
        elif data.held_out:
            measurements["drift"] = measure_drift(llm, model, data.held_out, runner)
        if after and not difference:
            try:
                drift = measure_image_drift(llm, model, data.conversations, runner)
                measurements["drift_after_image"] = drift
            except WingsError as error:
                notes.append(f"The drift after an image is skipped: {error}")
    return Evaluation(measurements, notes)


def questions_alone(items: Sequence[Item]) -> list[Item]:
    """The last question of each conversation, which stays in the conversation's cluster."""
    clusters = cluster_items(items)
    return [
        replace(question_alone(item), cluster=str(cluster))
        for item, cluster in zip(items, clusters, strict=True)
    ]


def measure_questions(
    questions: Questions,
    llm: EvalModel,
    model: EvalModel,
    items: Sequence[Item],
    runner: EvalRunner,
) -> Comparison:
    """Compares the model's answers with the LLM's to the same items without their pictures."""
    # Some chat templates take content as a string only; none rejects a string.
    blind = [without_pictures(item) for item in items]
    items = items if questions.with_pictures else blind
    name, title = questions.name, questions.name.capitalize()
    before = runner.answers(llm, blind, f"{name}: the LLM{', blind' * questions.with_pictures}")
    after = runner.answers(model, items, f"{name}: the model")
    return Comparison(title, questions.sentence, items, before, after, runner.seed)
