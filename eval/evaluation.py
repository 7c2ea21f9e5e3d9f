"""Evaluates a model against the LLM it was built from, with every measurement that applies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from wings.errors import WingsError
from wings.sense import IMAGE

from .attention.attention_shift import measure_attention_shift
from .compare.after_sense import AfterSense
from .compare.clusters import cluster_items
from .compare.comparison import Comparison
from .data import EvalData
from .drift import measure_drift
from .harness.comparison import TaskComparison
from .items import Item, question_alone, without_sources
from .models import EvalModel, tokenizer_difference
from .report.report import Sample, Section
from .runner import EvalRunner
from .sense_drift import measure_sense_drift
from .senses import EVERY, SENSES, EvalSense, names_in, together
from .verdict import verdict


@dataclass(frozen=True)
class Questions:
    """A kind of questions that both models are asked.

    Attributes:
        name: in report.json and on a progress bar.
        title: of the report's section.
        sentence: explains in the report how each of the two is asked.
        sense: of the items that the model is given, and the LLM is not; None for text alone.
    """

    name: str
    title: str
    sentence: str
    sense: EvalSense | None = None

    @classmethod
    def about(cls, sense: EvalSense) -> "Questions":
        """Questions about the items of a sense."""
        many = sense.nouns
        return cls(
            sense.questions,
            many.capitalize(),
            f"Questions about {many}. The LLM is asked the same questions without the {many}: what "
            f"it gets right is guessed, and the paired difference is the gain from {sense.gain}.",
            sense,
        )

    @classmethod
    def after(cls, sense: EvalSense) -> "Questions":
        """Conversations with items of a sense whose last question is about text."""
        return cls(
            sense.conversations,
            f"Conversations{f' after {sense.one}' * bool(sense.suffix)}",
            f"Conversations with a {sense.noun} whose last question is about text (mixed). The LLM "
            f"is given the same conversations without their {sense.nouns}; the last turn is "
            "scored.",
            sense,
        )


TEXT = Questions(
    "text",
    "Text",
    "Text questions, the same ones to both models. Percent right (word for word, or as the item's "
    "scoring says), with 95% intervals (Wilson's, unless questions share an image or a cluster). "
    "The difference is paired, item by item, with a bootstrap interval; -/+ counts the items that "
    "were lost and won.",
)
ALONE = Questions("alone", "Alone", "The last questions of the conversations, asked alone.")


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
        """One line each on text alone, text after items of each sense, and these items."""
        return verdict(self.measurements)

    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        return {name: one.to_dict() for name, one in self.measurements.items()}


def evaluate(llm: EvalModel, model: EvalModel, data: EvalData, runner: EvalRunner) -> Evaluation:
    """Measures text, items of senses, conversations, tasks, attention and drift.

    All ranks must call it. A model without a sense is not given its items. The attention shift is
    skipped for a model whose attention cannot be measured, and the drift if the tokenizers differ.
    The notes report all of these.
    """
    measurements: dict[str, Measurement] = {}
    notes: list[str] = []
    if data.text:
        measurements[TEXT.name] = measure_questions(TEXT, llm, model, data.text, runner)
    for sense in SENSES.values():
        items = getattr(data, sense.questions)
        if can_be_asked(Questions.about(sense), model, items, notes):
            asked = measure_questions(Questions.about(sense), llm, model, items, runner)
            measurements[sense.questions] = asked
    groups = by_senses(data.conversations)
    for sense, items in [*groups.items()]:
        if not can_be_asked(Questions.after(sense), model, items, notes):
            del groups[sense]
            continue
        after = measure_questions(Questions.after(sense), llm, model, items, runner)
        alone = measure_questions(ALONE, llm, model, questions_alone(items), runner)
        measurements[sense.conversations] = after
        measurements[sense.after] = AfterSense(alone, after, sense)
    if data.tasks is not None:
        # The harness is a large optional package.
        from .harness.measure import measure_tasks

        measurements["tasks"] = tasks = measure_tasks(llm, model, data.tasks, runner)
        notes += tasks.notes
    for sense, items in with_text_around(groups, data, model).items():
        try:
            shift = measure_attention_shift(llm, model, items, runner, sense=sense)
            measurements[sense.attention] = shift
        except WingsError as error:
            where = f" around {sense.one}" * bool(sense.suffix)
            notes.append(f"The attention shift{where} is skipped: {error}")
    if data.held_out or groups:
        difference = tokenizer_difference(llm.tokenizer, model.tokenizer)
        if difference:
            notes.append(
                f"The drift is skipped: the tokenizers of {llm.name} and {model.name} differ "
                f"({difference}), so their next tokens cannot be compared."
            )
            return Evaluation(measurements, notes)
        if data.held_out:
            measurements["drift"] = measure_drift(llm, model, data.held_out, runner)
        for sense, items in groups.items():
            try:
                measurements[sense.drift] = measure_sense_drift(llm, model, items, runner, sense)
            except WingsError as error:
                notes.append(f"The drift after {sense.one} is skipped: {error}")
    return Evaluation(measurements, notes)


def by_senses(items: Sequence[Item]) -> dict[EvalSense, list[Item]]:
    """The items by the senses that each of them has; those without any are with images."""
    groups: dict[EvalSense, list[Item]] = {}
    for item in items:
        groups.setdefault(together(names_in(item.messages) or (IMAGE,)), []).append(item)
    return dict(sorted(groups.items(), key=lambda group: EVERY.index(group[0])))


def can_be_asked(
    questions: Questions, model: EvalModel, items: Sequence[Item], notes: list[str]
) -> bool:
    """True if there are items, and the model has all of their senses; else adds a note."""
    lacking = {name for one in items for name in names_in(one.messages)} - {*model.senses}
    if lacking:
        many = together([name for name in SENSES if name in lacking]).nouns
        notes.append(
            f"{questions.title} are skipped: {model.name} is a "
            f"{'' if model.senses else 'plain '}'{model.kind}' model, which takes no {many}."
        )
    return bool(items) and not lacking


def with_text_around(
    groups: Mapping[EvalSense, Sequence[Item]], data: EvalData, model: EvalModel
) -> dict[EvalSense, Sequence[Item]]:
    """The items of the attention shift by sense: any conversation has text before and after."""
    found = dict(groups)
    for name, sense in SENSES.items():
        if not any(name in one.names for one in found):
            questions = by_senses(getattr(data, sense.questions))
            found |= {one: items for one, items in questions.items() if able(model, one)}
    return found


def able(model: EvalModel, sense: EvalSense) -> bool:
    """True if a model takes the items of all of these senses."""
    return {*sense.names} <= {*model.senses}


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
    """Compares the model's answers with the LLM's to the same items without their sources."""
    # Some chat templates take content as a string only; none rejects a string.
    blind = [without_sources(item) for item in items]
    items = blind if questions.sense is None else items
    name, how = questions.name, "" if questions.sense is None else ", blind"
    before = runner.answers(llm, blind, f"{name}: the LLM{how}")
    after = runner.answers(model, items, f"{name}: the model")
    return Comparison(questions.title, questions.sentence, items, before, after, runner.seed)
