"""Where both models look, as a part of a report: the attention shift of each."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from wings.errors import WingsError

from ..items import Item, pictures_of
from ..section import Section
from ..subject import Subject
from ..work import Work
from .masses import Masses
from .shift import Choices, Shift, measure_shift
from .shift_plot import curves_figure

# One pass each, without an answer; enough for an interval.
MOST = 128

SENTENCE = (
    "1 - Pearson of two curves over the blocks, the attention on text before and on text after a "
    "picture: 0 where both are looked at alike, up to 2 (the paper's attention shift). The LLM "
    "reads words in the picture's place. With few blocks the score is coarse."
)


@dataclass(frozen=True)
class Looks:
    """The attention shift of the LLM and of the model on the same conversations."""

    llm: Shift
    model: Shift

    def to_dict(self) -> dict[str, Any]:
        """Scores, intervals and curves of both."""
        return {"llm": self.llm.to_dict(), "model": self.model.to_dict()}

    def section(self) -> Section:
        """As a part of a report, with the model's curves."""
        rows = [("", "shift", "samples with a score")]
        for name, shift in (("LLM", self.llm), ("model", self.model)):
            rows += [(f"{name}, {branch}", *rest) for branch, *rest in shift.rows()]
        return Section("Attention shift", SENTENCE, rows, curves_figure(self.model, narrow=True))


def measure_looks(
    llm: Subject, model: Subject, items: Sequence[Item], work: Work, choices: Choices | None = None
) -> Looks:
    """Both models' shift on the items with pictures, or on `MOST` of them drawn by lot.

    Nothing of it is kept for a break: it takes one pass an item.

    Raises:
        WingsError: a model whose attention cannot be measured.
    """
    seen = [item for item in items if pictures_of(item)]
    if len(seen) > MOST:
        seen = random.Random(work.seed).sample(seen, MOST)
    choices = choices or Choices()
    return Looks(
        shared(llm, seen, work, choices, "attention: the LLM"),
        shared(model, seen, work, choices, "attention: the model"),
    )


def shared(
    subject: Subject, items: Sequence[Item], work: Work, choices: Choices, what: str
) -> Shift:
    """`measure_shift`, with the items dealt to the ranks."""
    mine = work.ranks.share(list(enumerate(items)))
    done = 0
    work.tell(what, done, len(mine))

    def on_batch(count: int) -> None:
        nonlocal done
        done += count
        work.tell(what, done, len(mine))

    found: dict[str, Any] = {}
    try:
        if mine:
            part = measure_shift(
                subject.model,
                subject.processor,
                [item for _, item in mine],
                choices,
                on_batch=on_batch,
            )
            for place, (number, _) in enumerate(mine):
                rows = (part.masses.main, part.masses.learners, part.masses.effect)
                found[str(number)] = [None if row is None else row[place].cpu() for row in rows]
            found["layers"] = part.layers
    except WingsError as error:
        # A rank without a share would wait for one that was refused.
        found["refused"] = str(error)
    everyone = work.ranks.together(found)
    if "refused" in everyone:
        raise WingsError(everyone["refused"])
    columns = zip(*(everyone[str(number)] for number in range(len(items))), strict=True)
    main, learners, effect = (
        None if rows[0] is None else torch.stack(rows) for rows in map(list, columns)
    )
    layers = tuple(everyone["layers"])
    return Shift(choices, layers, Masses(layers, main, learners, effect))
