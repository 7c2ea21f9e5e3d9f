"""Attention shift: whether text before and after a picture is looked at alike, block by block.

The paper (Wings, arXiv 2406.03496, section 2) sums the attention of all tokens i on a set V of
tokens, in each block l, and compares the two curves over the blocks that text before and text after
the picture give::

    LAWS_V   = [a^1_V .. a^L_V],  a^l_V = sum over i of sum over j in V of a^l_ij
    shift    = mean over samples of 1 - Pearson(LAWS_before, LAWS_after)

It lies between 0 and 2, and is larger for models that have lost text ability. The paper leaves open
what follows; here it is fixed.

heads: a^l_ij is the mean over the heads of the block; a block without attention is left out.
tokens: i runs over all tokens of the conversation, the picture's too, padding aside. Sums are
divided by their number, which no correlation notices and which makes rows of any length comparable:
a mass is a share of the attention.
sink: the first token takes most of the attention of many models, whatever it says, and lies before
the picture, so its curve would be the one that is compared. It is a kind of its own, counted with
neither; `sink="before"` counts it with the text before.
pictures: with several, text before the first and text after the last are compared; what stands
between is counted for itself.
prompts: the items of a file, in the model's own chat template, up to where the answer begins. Where
a conversation begins with its picture, `preamble` is said before it, or only the template's own
tokens would lie before.
blind models: a plain LLM reads the words `stand_in` in a picture's place, and is split there: what
the curves were before it saw.
samples: one without text on both sides, or with a curve that is flat (standard deviation below
1e-6, a model of one block), has no correlation and is left out of the mean; how many is told.

Of a Wings model the *main branch* is the decoder's own attention. The *branch plus learners* adds
to it where the learners look, each weighed by its gate (`learner_masses.py`)::

    plus_ij = a_ij + sum over m of g_im b^m_ij

as the block adds their outputs: the masses of a token whose gates sum to 1 sum to 2. It is a
statement about looking; `effect` says how large the learners' output is beside the main one.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from wings.errors import WingsError

from ..items import Item, pictures_of
from .kinds import KINDS
from .masses import Masses, attention_masses, inner_of
from .prompts import prompts

if TYPE_CHECKING:
    from peft import PeftModel

SINKS = ("apart", "before")
FLAT = 1e-6
DRAWS = 1000


@dataclass(frozen=True)
class ShiftOptions:
    """What the paper leaves open; the top of this file says what else is fixed.

    Attributes:
        sink: whether the first token is counted "apart" or with the text "before".
        preamble: what is said before a picture that begins a conversation; "" for nothing.
        stand_in: the words in a picture's place for a model that cannot see.
    """

    sink: str = "apart"
    preamble: str = "Look at the picture, then answer the question."
    stand_in: str = "[a picture]"

    def __post_init__(self) -> None:
        if self.sink not in SINKS:
            raise WingsError(f"sink is '{self.sink}', but must be one of {SINKS}.")
        if not self.stand_in.strip():
            raise WingsError("stand_in is empty, but a model that cannot see needs words there.")


@dataclass(frozen=True)
class Curves:
    """Masses of one branch: `[N, L, 5]` float64 over samples, blocks and `KINDS`."""

    masses: Tensor
    sink: str

    @property
    def before(self) -> Tensor:
        """LAWS of the text before, `[N, L]`."""
        sink, before = self.masses[..., 0], self.masses[..., 1]
        return before + sink if self.sink == "before" else before

    @property
    def after(self) -> Tensor:
        """LAWS of the text after, `[N, L]`."""
        return self.masses[..., KINDS.index("after")]

    @property
    def scores(self) -> list[float | None]:
        """Of each sample 1 - Pearson(before, after), None where there is no correlation."""
        return [one_minus_pearson(*pair) for pair in zip(self.before, self.after, strict=True)]

    @property
    def score(self) -> float | None:
        """The paper's score, None if no sample has one."""
        found = [score for score in self.scores if score is not None]
        return fmean(found) if found else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """What other samples could have given: 95% of the means of redrawn ones (bootstrap)."""
        found = [score for score in self.scores if score is not None]
        if not found:
            return None
        draw = random.Random(0)
        means = sorted(fmean(draw.choices(found, k=len(found))) for _ in range(DRAWS))
        return means[DRAWS // 40], means[-1 - DRAWS // 40]

    def to_dict(self) -> dict:
        """Score, interval, scores and curves `[N][L]` of samples, and masses averaged over samples,
        `[L][5]`.
        """
        return {
            "score": self.score,
            "interval": self.interval,
            "samples": self.scores,
            "before": self.before.tolist(),
            "after": self.after.tolist(),
            "without a score": sum(score is None for score in self.scores),
            "masses": {kind: self.masses.mean(0)[:, n].tolist() for n, kind in enumerate(KINDS)},
        }


@dataclass(frozen=True)
class ModelShift:
    """The attention shift of one model on some items.

    Attributes:
        options: as it was measured.
        layers: the blocks' numbers.
        masses: of all samples, in the order of the items.
    """

    options: ShiftOptions
    layers: tuple[int, ...]
    masses: Masses

    @property
    def main(self) -> Curves:
        """Of the decoder's own attention."""
        return Curves(self.masses.main, self.options.sink)

    @property
    def plus_learners(self) -> Curves | None:
        """Of the main branch plus the learners; None for a model without learners."""
        if self.masses.learners is None:
            return None
        return Curves(self.masses.main + self.masses.learners, self.options.sink)

    @property
    def branches(self) -> dict[str, Curves]:
        """The branches there are, by name."""
        plus = self.plus_learners
        return {"main": self.main} | ({} if plus is None else {"plus learners": plus})

    def rows(self) -> list[tuple[str, str, str]]:
        """Branch, score with its interval, samples with a score: rows of a table."""
        return [(name, spelled(curves), counted(curves)) for name, curves in self.branches.items()]

    def to_dict(self) -> dict:
        """Everything as plain values."""
        effect = self.masses.effect
        return {
            "options": asdict(self.options),
            "layers": list(self.layers),
            "branches": {name: curves.to_dict() for name, curves in self.branches.items()},
            "effect": None if effect is None else effect.mean(0).tolist(),
        }


def measure_shift(
    model: "PreTrainedModel | PeftModel",
    processor: ProcessorMixin | PreTrainedTokenizerBase,
    items: Sequence[Item],
    options: ShiftOptions | None = None,
    *,
    batch_size: int = 1,
    on_batch: Callable[[int], None] | None = None,
) -> ModelShift:
    """The attention shift of a model on items with pictures.

    Args:
        model: a Wings model, a vision-language model or a causal LM of transformers, or one of
            them within a `PeftModel`.
        processor: its processor, or the tokenizer of a causal LM.
        items: conversations; those without a picture are passed over.
        options: what the paper leaves open.
        batch_size: conversations a batch. One alone has no padding, so that not even a mask is
            kept.
        on_batch: called with the number of items just measured.

    Raises:
        WingsError: no item with a picture, or a model or processor that cannot be measured.
    """
    options = options or ShiftOptions()
    seen = [item for item in items if pictures_of(item)]
    if not seen:
        raise WingsError(
            f"none of the {len(items)} items has a picture to split its text; give items with one"
        )
    parts, device = [], inner_of(model).device
    for start in range(0, len(seen), batch_size):
        chosen = seen[start : start + batch_size]
        batch, is_image = prompts(processor, chosen, options.preamble, options.stand_in)
        parts.append(attention_masses(model, batch.to(device), is_image.to(device)))
        if on_batch:
            on_batch(len(chosen))
    return ModelShift(options, parts[0].layers, Masses.joined(parts))


def one_minus_pearson(before: Tensor, after: Tensor) -> float | None:
    """1 - r of two curves `[L]`, from 0 to 2; None where one of them is flat."""
    x, y = (curve.double() - curve.double().mean() for curve in (before, after))
    spread = min(x.square().mean(), y.square().mean()).sqrt()
    if not spread > FLAT:
        return None
    r = float((x @ y) / (x.norm() * y.norm()))
    return 1.0 - max(-1.0, min(1.0, r)) if math.isfinite(r) else None


def spelled(curves: Curves) -> str:
    """`0.31 (0.25-0.38)`, or a dash."""
    score, interval = curves.score, curves.interval
    if score is None or interval is None:
        return "-"
    low, high = interval
    return f"{score:.3f} ({low:.3f}-{high:.3f})"


def counted(curves: Curves) -> str:
    """`40 of 42`: samples with a score."""
    found = sum(score is not None for score in curves.scores)
    return f"{found} of {len(curves.scores)}"
