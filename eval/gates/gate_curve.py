"""`GateCurve`: text after an item against questions about it for every gate, and the chosen one."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wings.errors import WingsError
from wings.eval.fingerprint import fingerprint, item_fingerprint
from wings.eval.generate import batch_by_length
from wings.eval.items import Item
from wings.eval.models import EvalModel
from wings.eval.runner import LIKELIHOOD, EvalRunner
from wings.eval.scoring.accuracy import Accuracy, overall, score_by_kind
from wings.eval.senses import SENSES, EvalSense
from wings.model.causal_lm import WingsForCausalLM

from .gate_setting import GateSetting
from .text_turns_off import answers_with_last_turn_off

COLUMNS = (
    "gate", "value", "chosen", "text_{after}", "text_low", "text_high", "{questions}",
    "{questions}_low", "{questions}_high",
)  # fmt: skip


@dataclass(frozen=True)
class GateResult:
    """The scores of one setting, by kind of question.

    Attributes:
        setting: the gate.
        text: text questions after an item of the gate's sense.
        questions: questions about its items.
    """

    setting: GateSetting
    text: dict[str, Accuracy]
    questions: dict[str, Accuracy]

    @property
    def text_percent(self) -> float:
        """Percent right of text questions after an item."""
        return overall(self.text.values()).percent

    @property
    def question_percent(self) -> float:
        """Percent right of questions about items."""
        return overall(self.questions.values()).percent

    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        sense = SENSES[self.setting.sense]
        groups = {f"text_{sense.after}": self.text, sense.questions: self.questions}
        return {
            "gate": self.setting.gate,
            "value": self.setting.value,
            **{
                name: {
                    **overall(kinds.values()).to_dict(),
                    "kinds": {kind: one.to_dict() for kind, one in kinds.items()},
                }
                for name, kinds in groups.items()
            },
        }


@dataclass(frozen=True)
class GateCurve:
    """The results of all settings.

    Attributes:
        results: in the order of the settings.
        keep: points of questions about items that a gate may cost.
    """

    results: Sequence[GateResult]
    keep: float

    @property
    def sense(self) -> EvalSense:
        """The words of the gates' sense."""
        return SENSES[self.results[0].setting.sense]

    @property
    def question_floor(self) -> float:
        """The fewest percent of questions about items that a chosen gate may have.

        `keep` points below the model without a gate, or as saved if that is better.
        """
        ungated = [r for r in self.results if r.setting.gate in ("none", "saved")]
        return max(result.question_percent for result in ungated) - self.keep

    @property
    def chosen(self) -> GateResult:
        """The most text after an item among those that keep the questions about items.

        Of equal ones the one with most of these, then the earliest, which is the most open.
        """
        # Percentages are sums in floating point: 72.5 - 2 must not exclude 70.5.
        able = [
            result
            for result in self.results
            if result.setting.can_be_chosen
            and result.question_percent >= self.question_floor - 1e-9
        ]
        return max(able, key=lambda result: (result.text_percent, result.question_percent))

    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        setting = self.chosen.setting
        return {
            f"keep_{self.sense.questions}": self.keep,
            f"{self.sense.noun}_floor": self.question_floor,
            "chosen": {"gate": setting.gate, "value": setting.value},
            "results": [result.to_dict() for result in self.results],
        }

    def write_csv(self, path: Path) -> None:
        """Writes one line a setting."""
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            names = {"after": self.sense.after, "questions": self.sense.questions}
            writer.writerow(column.format(**names) for column in COLUMNS)
            for result in self.results:
                figures: list[float] = []
                for kinds in (result.text, result.questions):
                    accuracy = overall(kinds.values())
                    figures += [accuracy.percent, *accuracy.interval]
                setting = result.setting
                value = "" if setting.value is None else setting.value
                chosen = int(result is self.chosen)
                writer.writerow([setting.gate, value, chosen, *(f"{one:.2f}" for one in figures)])


def measure_curve(
    model: EvalModel,
    text: Sequence[Item],
    questions: Sequence[Item],
    settings: Sequence[GateSetting],
    runner: EvalRunner,
    keep: float,
) -> GateCurve:
    """Scores every setting; the model has the last one on afterwards. All processes must call it.

    Args:
        model: a freshly loaded Wings model.
        text: conversations with items of the gates' sense whose last question is about text.
        questions: questions about its items.
        settings: of one sense, see `all_settings`.
        runner: shared settings of the measurement.
        keep: points of `questions` that the chosen gate may cost.

    Raises:
        WingsError: choices that are ranked by likelihood among `text`.
    """
    ranked = [item for item in text if item.scoring == LIKELIHOOD]
    if ranked:
        raise WingsError(
            f"A text question is scored by '{LIKELIHOOD}', which cannot be read with learners off "
            "in one turn; use a scoring of generated answers."
        )
    assert isinstance(model.model, WingsForCausalLM)
    results: list[GateResult] = []
    scored: dict[str, dict[str, Accuracy]] = {}
    for setting in settings:
        setting.put_on(model.model)
        # Not a digest of all weights again: the gate alone differs.
        mark = fingerprint(model.fingerprint, setting.gate, setting.value)
        gated = replace(model, fingerprint=mark)
        if setting.gate == "off":
            answers = _answers_off(gated, text, runner, setting.name)
            # Learners act in turns about items, so those answers are the ungated ones.
            results.append(GateResult(setting, score_by_kind(text, answers), scored["none"]))
            continue
        answers = runner.answers(gated, text, f"{setting.name}: text")
        name = SENSES[setting.sense].questions
        shown = runner.answers(gated, questions, f"{setting.name}: {name}")
        scored[setting.gate] = score_by_kind(questions, shown)
        results.append(GateResult(setting, score_by_kind(text, answers), scored[setting.gate]))
    return GateCurve(results, keep)


def _answers_off(
    model: EvalModel, items: Sequence[Item], runner: EvalRunner, name: str
) -> list[str]:
    """Answers with learners off in the last turn; batches are shared and cached."""
    settings = (model.fingerprint, runner.max_new_tokens, runner.processes.device.type)
    keys = [fingerprint("off", *settings, item_fingerprint(item)) for item in items]
    return runner.compute_items(
        name, items, keys,
        lambda batch: answers_with_last_turn_off(model, batch, len(batch), runner.max_new_tokens),
        lambda different: batch_by_length(different, runner.batch_size),
    )  # fmt: skip
