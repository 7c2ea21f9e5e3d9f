"""`GateCurve`: text after an image against pictures for every gate, and the one that is chosen."""

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
from wings.model.causal_lm import WingsForCausalLM

from .gate_setting import GateSetting
from .text_turns_off import answers_with_last_turn_off

COLUMNS = (
    "gate", "value", "chosen", "text_after_image", "text_low", "text_high", "pictures",
    "pictures_low", "pictures_high",
)  # fmt: skip


@dataclass(frozen=True)
class GateResult:
    """The scores of one setting, by kind of question.

    Attributes:
        setting: the gate.
        text: text questions after an image.
        pictures: questions about pictures.
    """

    setting: GateSetting
    text: dict[str, Accuracy]
    pictures: dict[str, Accuracy]

    @property
    def text_percent(self) -> float:
        """Percent right of text questions after an image."""
        return overall(self.text.values()).percent

    @property
    def picture_percent(self) -> float:
        """Percent right of questions about pictures."""
        return overall(self.pictures.values()).percent

    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        groups = {"text_after_image": self.text, "pictures": self.pictures}
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
        keep_pictures: points of pictures that a gate may cost.
    """

    results: Sequence[GateResult]
    keep_pictures: float

    @property
    def picture_floor(self) -> float:
        """The fewest percent of pictures that a chosen gate may have.

        `keep_pictures` points below the model without a gate, or as saved if that is better.
        """
        ungated = [r for r in self.results if r.setting.gate in ("none", "saved")]
        return max(result.picture_percent for result in ungated) - self.keep_pictures

    @property
    def chosen(self) -> GateResult:
        """The most text after an image among those that keep the pictures.

        Of equal ones the one with most pictures, then the earliest, which is the most open.
        """
        # Percentages are sums in floating point: 72.5 - 2 must not exclude 70.5.
        able = [
            result
            for result in self.results
            if result.setting.can_be_chosen and result.picture_percent >= self.picture_floor - 1e-9
        ]
        return max(able, key=lambda result: (result.text_percent, result.picture_percent))

    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        setting = self.chosen.setting
        return {
            "keep_pictures": self.keep_pictures,
            "picture_floor": self.picture_floor,
            "chosen": {"gate": setting.gate, "value": setting.value},
            "results": [result.to_dict() for result in self.results],
        }

    def write_csv(self, path: Path) -> None:
        """Writes one line a setting."""
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for result in self.results:
                figures: list[float] = []
                for kinds in (result.text, result.pictures):
                    accuracy = overall(kinds.values())
                    figures += [accuracy.percent, *accuracy.interval]
                setting = result.setting
                value = "" if setting.value is None else setting.value
                chosen = int(result is self.chosen)
                writer.writerow([setting.gate, value, chosen, *(f"{one:.2f}" for one in figures)])


def measure_curve(
    model: EvalModel,
    text: Sequence[Item],
    pictures: Sequence[Item],
    settings: Sequence[GateSetting],
    runner: EvalRunner,
    keep_pictures: float,
) -> GateCurve:
    """Scores every setting; the model has the last one on afterwards. All processes must call it.

    Args:
        model: a freshly loaded Wings model.
        text: conversations with pictures whose last question is about text.
        pictures: questions about pictures.
        settings: see `all_settings`.
        runner: shared settings of the measurement.
        keep_pictures: points of pictures that the chosen gate may cost.

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
            # Learners act in turns about pictures, so those answers are the ungated ones.
            results.append(GateResult(setting, score_by_kind(text, answers), scored["none"]))
            continue
        answers = runner.answers(gated, text, f"{setting.name}: text")
        shown = runner.answers(gated, pictures, f"{setting.name}: pictures")
        scored[setting.gate] = score_by_kind(pictures, shown)
        results.append(GateResult(setting, score_by_kind(text, answers), scored[setting.gate]))
    return GateCurve(results, keep_pictures)


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
