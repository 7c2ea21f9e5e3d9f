"""One model against the LLM it grew from: every measurement that the data and the model allow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from wings.errors import WingsError

from .attention.looks import measure_looks
from .attention.shift import has_picture
from .comparison import Comparison
from .conversations import measure_conversations
from .data import Data
from .drift import measure_drift
from .pictures import measure_pictures
from .samples import Sample, samples_of
from .section import Section
from .subject import Subject
from .text import measure_text
from .vocabulary import tokenizers_differ
from .work import Work


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
        return {
            measurement.title: samples_of(measurement)
            for measurement in self.measurements.values()
            if isinstance(measurement, Comparison)
        }

    def to_dict(self) -> dict[str, Any]:
        """All figures."""
        return {name: measured.to_dict() for name, measured in self.measurements.items()}


def evaluate(llm: Subject, model: Subject, data: Data, work: Work) -> Evaluation:
    """Measures text, pictures, conversations, attention and drift; every rank must come here.

    A model that does not see is not shown pictures, and tokenizers that differ leave the drift out:
    the notes say so.
    """
    measurements: dict[str, Measurement] = {}
    notes = []
    measure: Callable[..., Comparison]
    if data.text:
        measurements["text"] = measure_text(llm, model, data.text, work)
    shown = {
        "pictures": (data.pictures, measure_pictures),
        "conversations": (data.conversations, measure_conversations),
    }
    for name, (items, measure) in shown.items():
        if items and model.sees:
            measurements[name] = measure(llm, model, items, work)
        elif items:
            notes.append(
                f"{name} are left out: {model.name} is a plain '{model.kind}' model, which does "
                "not see"
            )
    conversations = [item for item in data.conversations if has_picture(item)]
    if conversations and model.sees:
        try:
            measurements["attention"] = measure_looks(llm, model, conversations, work)
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
            measurements["drift"] = measure_drift(llm, model, data.held_out, work)
    return Evaluation(measurements, notes)
