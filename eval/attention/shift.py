"""Attention shift: if text before and after a picture receives the same attention in each block.

The paper (Wings, arXiv 2406.03496, section 2) sums the attention of all tokens i on a set V of
tokens in each block l. It compares the curves of text before and after the picture::

    LAWS_V   = [a^1_V .. a^L_V],  a^l_V = sum over i of sum over j in V of a^l_ij
    shift    = mean over samples of 1 - Pearson(LAWS_before, LAWS_after)

The shift is between 0 and 2, and larger for models that have lost text ability. The paper does not
specify the following; here it is fixed.

heads: a^l_ij is the mean over the heads of a block; blocks without attention are left out.
tokens: i runs over all tokens of the conversation except padding. Sums are divided by their number:
a mass is a share of the attention. This does not change the correlation and makes lengths
comparable.
sink: the first token takes most of the attention of many models, whatever it is, and would dominate
the curve of the text before. It is a kind of its own; `sink="before"` adds it to the text before.
pictures: with several, text before the first and text after the last are compared; text between is
counted separately. Sounds are treated in the same way; each sense has a kind of its own.
prompts: items in the model's own chat template, up to where the answer begins. If a conversation
starts with its picture, `preamble` is inserted before it; else only tokens of the template would
precede it.
models without vision: a plain LLM reads `placeholder` in a picture's place, which splits the text.
samples: a sample without text on both sides, or with a flat curve (standard deviation below 1e-6,
or a single block), has no correlation and is left out of the mean; the number is reported.

The *main branch* of a Wings model is the decoder's own attention. *Plus learners* adds the gated
attention of the learners (`learner_masses.py`)::

    plus_ij = a_ij + sum over m of g_im b^m_ij

as the block adds their outputs. Masses of a token whose gates sum to 1 sum to 2. This describes
attention only; `effect` is the size of the learners' output relative to the main attention's.
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
from wings.sense import IMAGE

from ..items import Item
from ..senses import SENSES, names_in
from .key_kinds import key_kinds_of
from .masses import Masses, attention_masses, inner_of
from .prompts import encode_prompts

if TYPE_CHECKING:
    from peft import PeftModel

SINKS = ("apart", "before")
FLAT = 1e-6  # standard deviation
DRAWS = 1000  # of the bootstrap


@dataclass(frozen=True)
class ShiftOptions:
    """Options that the paper does not specify; see the top of this file.

    Attributes:
        sink: counts the first token "apart" or with the text "before".
        preamble: text before a picture that starts a conversation; "" for none.
        placeholder: words in a picture's place for a model without vision.
    """

    sink: str = "apart"
    preamble: str = "Look at the picture, then answer the question."
    placeholder: str = "[a picture]"

    def __post_init__(self) -> None:
        if self.sink not in SINKS:
            raise WingsError(f"sink is '{self.sink}'; it must be one of {', '.join(SINKS)}.")
        if not self.placeholder.strip():
            raise WingsError("placeholder is empty; models without vision need words there.")


@dataclass(frozen=True)
class Curves:
    """Masses of one branch: `[N, L, C]` float64 over samples, blocks and kinds of keys."""

    masses: Tensor
    sink: str
    senses: tuple[str, ...] = (IMAGE,)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The C kinds of keys."""
        return key_kinds_of(self.senses)

    @property
    def before(self) -> Tensor:
        """Attention on the text before, `[N, L]`."""
        sink, before = self.masses[..., 0], self.masses[..., 1]
        return before + sink if self.sink == "before" else before

    @property
    def after(self) -> Tensor:
        """Attention on the text after, `[N, L]`."""
        return self.masses[..., -1]

    @property
    def scores(self) -> list[float | None]:
        """1 - Pearson(before, after) of each sample; None where it is undefined."""
        return [one_minus_pearson(*pair) for pair in zip(self.before, self.after, strict=True)]

    @property
    def score(self) -> float | None:
        """The mean over the samples with a score; None if there is none."""
        scores = [score for score in self.scores if score is not None]
        return fmean(scores) if scores else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% bootstrap interval of the mean; None if no sample has a score."""
        scores = [score for score in self.scores if score is not None]
        if not scores:
            return None
        draw = random.Random(0)
        means = sorted(fmean(draw.choices(scores, k=len(scores))) for _ in range(DRAWS))
        return means[DRAWS // 40], means[-1 - DRAWS // 40]

    def to_dict(self) -> dict:
        """Score, interval, scores and curves `[N][L]`, and mean masses `[L]` by kind, for JSON."""
        return {
            "score": self.score,
            "interval": self.interval,
            "samples": self.scores,
            "before": self.before.tolist(),
            "after": self.after.tolist(),
            "without a score": sum(score is None for score in self.scores),
            "masses": dict(zip(self.kinds, self.masses.mean(0).T.tolist(), strict=True)),
        }


@dataclass(frozen=True)
class ModelShift:
    """The attention shift of one model on some items.

    Attributes:
        options: of the measurement.
        layers: the blocks' numbers.
        masses: of all samples, in the order of the items.
        senses: of the items.
    """

    options: ShiftOptions
    layers: tuple[int, ...]
    masses: Masses
    senses: tuple[str, ...] = (IMAGE,)

    @property
    def main(self) -> Curves:
        """The decoder's own attention."""
        return Curves(self.masses.main, self.options.sink, self.senses)

    @property
    def plus_learners(self) -> Curves | None:
        """The main branch plus the learners; None for a model without learners."""
        if self.masses.learners is None:
            return None
        both = self.masses.main + self.masses.learners
        return Curves(both, self.options.sink, self.senses)

    @property
    def branches(self) -> dict[str, Curves]:
        """The branches by name."""
        plus = self.plus_learners
        return {"main": self.main} | ({} if plus is None else {"plus learners": plus})

    def table(self) -> list[tuple[str, str, str]]:
        """Table rows: branch, score with its interval, samples with a score."""
        return [
            (name, format_shift(curves), format_count(curves))
            for name, curves in self.branches.items()
        ]

    def to_dict(self) -> dict:
        """All figures, for JSON."""
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
    """Measures the attention shift of a model on items with pictures or sounds.

    Args:
        model: a Wings model, a vision-language model or a causal LM of transformers, or one of
            them in a `PeftModel`.
        processor: its processor, or the tokenizer of a causal LM.
        items: conversations; those without a picture or sound are skipped.
        options: that the paper does not specify.
        batch_size: conversations a batch. A single one has no padding, so it needs no mask.
        on_batch: called after each batch with its number of items.

    Raises:
        WingsError: no item with a picture or sound, or a model or processor that cannot be
            measured.
    """
    options = options or ShiftOptions()
    visible = [item for item in items if names_in(item.messages)]
    if not visible:
        raise WingsError(
            f"None of the {len(items)} items has a picture or a sound to split its text; pass items"
            " with one."
        )
    found = {name for item in visible for name in names_in(item.messages)}
    senses = tuple(name for name in SENSES if name in found)
    parts, device = [], inner_of(model).device
    for start in range(0, len(visible), batch_size):
        chosen = visible[start : start + batch_size]
        batch, is_item = encode_prompts(
            processor, chosen, options.preamble, options.placeholder, senses
        )
        parts.append(attention_masses(model, batch.to(device), is_item.to(device)))
        if on_batch:
            on_batch(len(chosen))
    return ModelShift(options, parts[0].layers, Masses.concat(parts), senses)


def one_minus_pearson(before: Tensor, after: Tensor) -> float | None:
    """1 - r of two curves `[L]`, from 0 to 2; None if one of them is flat."""
    x, y = (curve.double() - curve.double().mean() for curve in (before, after))
    spread = min(x.square().mean(), y.square().mean()).sqrt()
    if not spread > FLAT:
        return None
    r = float((x @ y) / (x.norm() * y.norm()))
    return 1.0 - max(-1.0, min(1.0, r)) if math.isfinite(r) else None


def format_shift(curves: Curves) -> str:
    """`0.310 (0.250-0.380)`, or a dash."""
    score, interval = curves.score, curves.interval
    if score is None or interval is None:
        return "-"
    low, high = interval
    return f"{score:.3f} ({low:.3f}-{high:.3f})"


def format_count(curves: Curves) -> str:
    """`40 of 42`: samples with a score."""
    count = sum(score is not None for score in curves.scores)
    return f"{count} of {len(curves.scores)}"
