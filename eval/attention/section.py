"""Where both models look, as a part of a report: the attention shift of each."""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from wings.errors import WingsError
from wings.eval.models import EvalModel
from wings.eval.report.section import Section
from wings.eval.runner import EvalRunner

from ..fingerprint import fingerprint, item_fingerprint
from ..items import Item, pictures_of
from .masses import Masses
from .shift import ModelShift, ShiftOptions, measure_shift
from .shift_plot import curves_figure

# One pass each, without an answer; enough for an interval.
MOST = 128
COLUMNS = ("main", "learners", "effect")  # of `Masses`

SENTENCE = (
    "1 - Pearson of two curves over the blocks, the attention on text before and on text after a "
    "picture: 0 where both are looked at alike, up to 2 (the paper's attention shift). The LLM "
    "reads words in the picture's place. With few blocks the score is coarse."
)


@dataclass(frozen=True)
class AttentionShift:
    """The attention shift of the LLM and of the model on the same conversations."""

    llm: ModelShift
    model: ModelShift

    def to_dict(self) -> dict[str, Any]:
        """Scores, intervals and curves of both."""
        return {"llm": self.llm.to_dict(), "model": self.model.to_dict()}

    def section(self) -> Section:
        """As a part of a report, with the model's curves."""
        rows = [("", "shift", "samples with a score")]
        for name, shift in (("LLM", self.llm), ("model", self.model)):
            rows += [(f"{name}, {branch}", score, count) for branch, score, count in shift.rows()]
        return Section("Attention shift", SENTENCE, rows, curves_figure(self.model, narrow=True))


def measure_attention_shift(
    llm: EvalModel,
    model: EvalModel,
    items: Sequence[Item],
    runner: EvalRunner,
    options: ShiftOptions | None = None,
) -> AttentionShift:
    """Both models' shift on the items with pictures, or on `MOST` of them drawn by lot.

    ResultCache for a break is every sample, under the model, the options, the device and the item.

    Raises:
        WingsError: a model whose attention cannot be measured.
    """
    seen = [item for item in items if pictures_of(item)]
    if len(seen) > MOST:
        seen = random.Random(runner.seed).sample(seen, MOST)
    options = options or ShiftOptions()
    return AttentionShift(
        shared(llm, seen, runner, options, "attention: the LLM"),
        shared(model, seen, runner, options, "attention: the model"),
    )


def shared(
    subject: EvalModel, items: Sequence[Item], runner: EvalRunner, options: ShiftOptions, what: str
) -> ModelShift:
    """`measure_shift`, with the items dealt to the ranks, each kept as soon as it is measured."""
    settings = (subject.fingerprint, asdict(options), runner.ranks.device.type)
    keys = [fingerprint("attention", *settings, item_fingerprint(item)) for item in items]
    different = dict(zip(keys, items, strict=True))
    mine = runner.ranks.share(list(different))
    runner.progress(what, 0, len(mine))
    found: dict[str, Any] = {}
    try:
        for done, key in enumerate(mine, 1):
            if key not in runner.cache:
                one = measure_shift(subject.model, subject.processor, [different[key]], options)
                runner.cache.add({key: kept_form(one.masses)})
            found[key] = runner.cache[key]
            runner.progress(what, done, len(mine))
    except WingsError as error:
        # A rank without a share would wait for one that was refused.
        found["refused"] = str(error)
    everyone = runner.ranks.together(found)
    if "refused" in everyone:
        raise WingsError(everyone["refused"])
    samples = [everyone[key] for key in keys]
    layers = tuple(samples[0]["layers"])
    main, learners, effect = ([sample[name] for sample in samples] for name in COLUMNS)
    masses = Masses(layers, joined(main), joined_if_any(learners), joined_if_any(effect))
    return ModelShift(options, layers, masses)


def kept_form(masses: Masses) -> dict[str, Any]:
    """The masses of one sample as JSON holds them, to the last bit."""
    columns = {name: vars(masses)[name] for name in COLUMNS}
    rows = {name: None if one is None else one[0].tolist() for name, one in columns.items()}
    return {"layers": list(masses.layers), **rows}


def joined(rows: list[list]) -> Tensor:
    """A column of all samples."""
    return torch.tensor(rows, dtype=torch.float64)


def joined_if_any(rows: list[list | None]) -> Tensor | None:
    """The same; None where the model has none."""
    found = [row for row in rows if row is not None]
    return joined(found) if found else None
