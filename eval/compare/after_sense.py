"""Text questions after an image or a sound and the same questions alone, by kind."""

from dataclasses import dataclass
from typing import Any

from wings.eval.report.report import Section
from wings.eval.senses import SEEN, EvalSense

from .comparison import Comparison
from .paired import PairedScores, format_points, paired_plot

HEADERS: tuple[str, ...] = (
    "", "alone,\nLLM / model", "after,\nLLM / model", "model,\nafter - alone", "same\nanswers",
)  # fmt: skip
SENTENCE = (
    "The last questions of the conversations, in percent right. Alone: both models are asked the "
    "question alone. After: the LLM reads the exchange before it in words, the model with its "
    "{many}. After - alone: the model's difference, paired by question with a bootstrap interval. "
    "Same answers: percent of the model's answers after {one} that equal the LLM's after the "
    "exchange in words. The plot shows the model."
)


@dataclass(frozen=True)
class AfterSense:
    """Answers of both models to the same text questions, alone and after an exchange.

    Attributes:
        alone: the LLM's and the model's answers to the questions alone.
        after: the LLM's answers after the exchange in words, the model's after the images. It has
            the same questions in the same order.
        sense: of the exchange's items.
    """

    alone: Comparison
    after: Comparison
    sense: EvalSense = SEEN

    def model_scores(self, kind: str) -> PairedScores:
        """The model's scores of a kind, alone (before) and after the exchange (after)."""
        alone, after = self.alone.paired(kind), self.after.paired(kind)
        return PairedScores(alone.after, after.after, after.seed, after.clusters)

    def to_dict(self) -> dict[str, Any]:
        """All figures by kind, and the answers to the questions alone, for JSON."""
        kinds = {}
        for kind in self.after.kinds:
            alone, after = self.alone.paired(kind).accuracies, self.after.paired(kind).accuracies
            model = self.model_scores(kind)
            kinds[kind] = {
                "alone": {"llm": alone[0].to_dict(), "model": alone[1].to_dict()},
                "after": {"llm": after[0].to_dict(), "model": after[1].to_dict()},
                "model_after_minus_alone": model.difference.to_dict(),
                "same_answers": self.after.same_answers(kind).to_dict(),
                "clusters": model.cluster_count,
            }
        return {"kinds": kinds, "answers_alone": self.alone.to_dict()["answers"]}

    def section(self) -> Section:
        """The report's section."""
        rows = [HEADERS]
        for kind in self.after.kinds:
            pairs = (one.paired(kind).accuracies for one in (self.alone, self.after))
            cells = (f"{llm.percent:.1f} / {model.percent:.1f}" for llm, model in pairs)
            change = format_points(self.model_scores(kind).difference)
            rows.append((kind, *cells, change, str(self.after.same_answers(kind))))
        named = {kind: self.model_scores(kind) for kind in self.after.kinds}
        one, many = self.sense.one, self.sense.many
        sentence = SENTENCE.format(one=one, many=many) + self.after.cluster_sentence
        figure = paired_plot(named, ("alone", f"after {one}"))
        return Section(f"Text after {one} and alone", sentence, rows, figure)
