"""One model against the LLM it grew from: every measurement that the data and the model allow."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from wings.errors import WingsError

from .attention.section import measure_attention_shift
from .compare.comparison import Comparison
from .data import Data
from .drift import measure_drift
from .harness.comparison import TaskComparison
from .items import pictures_of
from .models import EvalModel
from .questions import CONVERSATIONS, PICTURES, TEXT, measure_questions
from .report.samples import Sample, samples_of
from .report.section import Section
from .runner import EvalRunner
from .vocabulary import tokenizers_differ


class Measurement(Protocol):
    """What a report takes: figures, and how they are shown."""

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON holds it."""

    def section(self) -> Section:
        """A part of the report."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured, by name, and sentences on what was not."""

    measurements: dict[str, Measurement]
    notes: Sequence[str]

    @property
    def sections(self) -> list[Section]:
        """The parts of a report."""
        return [measurement.section() for measurement in self.measurements.values()]

    @property
    def samples(self) -> dict[str, list[Sample]]:
        """Answers side by side, of each kind of items."""
        found = {}
        for measurement in self.measurements.values():
            if isinstance(measurement, Comparison):
                found[measurement.title] = samples_of(measurement)
            elif isinstance(measurement, TaskComparison):
                found[measurement.title] = measurement.samples
        return found

    def to_dict(self) -> dict[str, Any]:
        """All figures."""
        return {name: measured.to_dict() for name, measured in self.measurements.items()}


def evaluate(llm: EvalModel, model: EvalModel, data: Data, runner: EvalRunner) -> Evaluation:
    """Measures text, pictures, conversations, tasks, attention and drift; every rank comes here.

    A model that does not see is not shown pictures, and tokenizers that differ leave the drift out:
    the notes say so.
    """
    measurements: dict[str, Measurement] = {}
    notes = []
    asked = {TEXT: data.text, PICTURES: data.pictures, CONVERSATIONS: data.conversations}
    for questions, items in asked.items():
        if items and questions.shown and not model.sees:
            notes.append(
                f"{questions.name} are left out: {model.name} is a plain '{model.kind}' model, "
                "which does not see"
            )
        elif items:
            measurements[questions.name] = measure_questions(questions, llm, model, items, runner)
    if data.tasks is not None:
        # The harness is a large package, and not everybody's.
        from .harness.measure import measure_tasks

        measurements["tasks"] = found = measure_tasks(llm, model, data.tasks, runner)
        notes += found.notes
    # Any conversation with a picture has text before and after it.
    shown = data.conversations or data.pictures
    conversations = [item for item in shown if pictures_of(item)]
    if conversations and model.sees:
        try:
            measurements["attention"] = measure_attention_shift(llm, model, conversations, runner)
        except WingsError as error:
            notes.append(f"attention shift is left out: {str(error).rstrip('.')}")
    if data.held_out:
        difference = tokenizers_differ(llm.tokenizer, model.tokenizer)
        if difference:
            notes.append(
                f"drift is left out: the tokenizers of {llm.name} and {model.name} differ "
                f"({difference}), so their next tokens cannot be compared"
            )
        else:
            measurements["drift"] = measure_drift(llm, model, data.held_out, runner)
    return Evaluation(measurements, notes)
