"""The attention shift of the LLM and of the model on the same conversations, for the report."""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..fingerprint import fingerprint, item_fingerprint
from ..items import Item
from ..models import EvalModel
from ..report.report import Section
from ..runner import EvalRunner
from ..senses import SEEN, EvalSense, names_in
from .masses import Masses
from .shift import ModelShift, ShiftOptions, measure_shift
from .shift_plot import curves_figure

MAX_ITEMS = 128  # one pass each; enough for an interval
COLUMNS = ("main", "learners", "effect")  # of `Masses`

SENTENCE = (
    "1 - Pearson of two curves over the blocks, the attention on text before and on text after a "
    "{noun}: 0 if both receive the same attention, up to 2 (the paper's attention shift). The LLM "
    "reads words in the {noun}'s place. With few blocks the score is coarse."
)


@dataclass(frozen=True)
class AttentionShift:
    """The attention shift of both models around items of one sense, or of several together."""

    llm: ModelShift
    model: ModelShift
    sense: EvalSense = SEEN

    def to_dict(self) -> dict[str, Any]:
        """Scores, intervals and curves of both, for JSON."""
        return {"llm": self.llm.to_dict(), "model": self.model.to_dict()}

    def section(self) -> Section:
        """The report's section, with the model's curves."""
        rows = [("", "shift", "samples with a score")]
        for name, shift in (("LLM", self.llm), ("model", self.model)):
            rows += [(f"{name}, {branch}", score, count) for branch, score, count in shift.table()]
        title = "Attention shift" + f" around {self.sense.one}" * bool(self.sense.suffix)
        figure = curves_figure(self.model, narrow=True)
        return Section(title, SENTENCE.format(noun=self.sense.noun), rows, figure)


def measure_attention_shift(
    llm: EvalModel,
    model: EvalModel,
    items: Sequence[Item],
    runner: EvalRunner,
    options: ShiftOptions | None = None,
    sense: EvalSense = SEEN,
) -> AttentionShift:
    """Both models' shift on the items of a sense, at most `MAX_ITEMS` random ones.

    Each sample is cached under model, options, device and item.

    Args:
        llm: the reference.
        model: takes the items.
        items: those with other senses are left out.
        runner: shares the work.
        options: that the paper does not specify.
        sense: that the items have, or several.

    Raises:
        WingsError: a model whose attention cannot be measured.
    """
    visible = [item for item in items if names_in(item.messages) == sense.names]
    if len(visible) > MAX_ITEMS:
        visible = random.Random(runner.seed).sample(visible, MAX_ITEMS)
    options = options or ShiftOptions()
    name = f"attention{sense.suffix.replace('_', ' ')}"
    return AttentionShift(
        _measure(llm, visible, runner, options, sense, f"{name}: the LLM"),
        _measure(model, visible, runner, options, sense, f"{name}: the model"),
        sense,
    )


def _measure(
    model: EvalModel,
    items: Sequence[Item],
    runner: EvalRunner,
    options: ShiftOptions,
    sense: EvalSense,
    name: str,
) -> ModelShift:
    """`measure_shift` with the items shared among processes, each cached once measured."""
    settings = (model.fingerprint, asdict(options), runner.processes.device.type)
    keys = [fingerprint("attention", *settings, item_fingerprint(item)) for item in items]

    def measure(batch: Sequence[Item]) -> list[dict[str, Any]]:
        return [_to_json(measure_shift(model.model, model.processor, batch, options).masses)]

    # One item a batch.
    samples = runner.compute_items(
        name, items, keys, measure, lambda different: [[n] for n in range(len(different))]
    )
    layers = tuple(samples[0]["layers"])
    main, learners, effect = (_column(samples, name) for name in COLUMNS)
    assert main is not None
    return ModelShift(options, layers, Masses(layers, main, learners, effect), sense.names)


def _to_json(masses: Masses) -> dict[str, Any]:
    """The masses of one sample as JSON values, without rounding."""
    columns = {name: vars(masses)[name] for name in COLUMNS}
    lists = {name: None if one is None else one[0].tolist() for name, one in columns.items()}
    return {"layers": list(masses.layers), **lists}


def _column(samples: Sequence[dict[str, Any]], name: str) -> Tensor | None:
    """A column of all samples; None if the model does not have it."""
    values = [sample[name] for sample in samples if sample[name] is not None]
    return torch.tensor(values, dtype=torch.float64) if values else None
