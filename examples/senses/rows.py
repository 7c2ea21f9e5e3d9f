"""The study's models: how each is trained, composed or merged, and the rows of its page.

A training is one stage from fresh parts or from other models. A row is a model that is scored.
All rows of one seed share trainings; a training runs once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

IMAGE, AUDIO = "image", "audio"
COMPOSED = "composed"  # the composition by the chosen rule, as the start of a training
Keys = dict[str, Any]
# A third of the blocks has learners, as in the experiment.
LEARNERS: Keys = {
    "rank": 64, "learner_layers": list(range(0, 30, 3)), "normalize_sources": True,
    "init_std": "scaled",
}  # fmt: skip
# (sense, stage) -> rates of the projector, and of learners and router. Those of images were swept
# by the experiment, those of sounds are those of `wings speech`; no row of this study was swept.
RATES = {
    (IMAGE, "align"): (2e-3, 5e-4),
    (IMAGE, "instruct"): (2e-3, 5e-4),
    (AUDIO, "align"): (1e-3, 1e-3),
    (AUDIO, "instruct"): (5e-4, 5e-4),
}
LLM_RATES = {"slow": 2e-5, "fast": 1e-4}
# Of rows that train several senses in the LLM, and of the children of merges.
FULL = "slow"
RULES = ("sum", "mean", "newest", "attended")


@dataclass(frozen=True)
class Training:
    """One run of a stage.

    Attributes:
        name: of its folder.
        stage: of the recipe.
        data: senses whose conversations are trained on; "both" for questions that need both.
        start: the training that it starts from; "" for fresh parts; or `COMPOSED`.
        adds: senses whose encoders it adds.
        trains: senses whose parts it trains.
        learners: it has learners and a frozen LLM; else projectors and a trained LLM.
        llm_rate: a key of `LLM_RATES`; "" for a frozen LLM.
    """

    name: str
    stage: Literal["align", "instruct"]
    data: tuple[str, ...]
    start: str = ""
    adds: tuple[str, ...] = ()
    trains: tuple[str, ...] = ()
    learners: bool = True
    llm_rate: str = ""

    @property
    def earlier(self) -> tuple[str, ...]:
        """The trainings that must be finished before."""
        if self.start == COMPOSED:
            return IMAGE, AUDIO
        return (self.start,) if self.start else ()


@dataclass(frozen=True)
class Row:
    """A model that is scored.

    Attributes:
        key: name in files.
        title: name in tables.
        model: the training whose model it is; two trainings for a composition or a merge.
        rule: of a composition; "" for none.
        merge: method and settings of a merge of the two LLMs; None for none.
        senses: that it has.
    """

    key: str
    title: str
    model: tuple[str, ...]
    rule: str = ""
    merge: "Merge | None" = None
    senses: tuple[str, ...] = (IMAGE, AUDIO)


@dataclass(frozen=True)
class Merge:
    """A method of `wings merge`, the weights of the two children, and its parameters."""

    method: str
    weights: Sequence[float] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)


def _stages(
    name: str, data: tuple[str, ...], learners: bool = True, start: str = "", rate: str = "",
    align: str = "",
) -> list[Training]:  # fmt: skip
    """Both stages of some senses, whose encoders the first one adds."""
    first = align or f"{name}-align"
    return [
        Training(first, "align", data, start, data, data, learners),
        Training(name, "instruct", data, first, (), data, learners, rate),
    ]


def _trainings() -> dict[str, Training]:
    one, other, two = (IMAGE,), (AUDIO,), (IMAGE, AUDIO)
    found = [*_stages(IMAGE, one), *_stages(AUDIO, other), *_stages("joint", two)]
    for sense in (one, other):
        for rate in LLM_RATES:
            name = f"{sense[0]}-full"
            found += _stages(f"{name}-{rate}", sense, False, "", rate, f"{name}-align")
    found += _stages("joint-full", two, False, "", FULL)
    for first, second in ((IMAGE, AUDIO), (AUDIO, IMAGE)):
        name = f"{first}-{second}"
        found += _stages(f"{name}-full", (second,), False, f"{first}-full-{FULL}", FULL)
        found += _stages(name, (second,), True, first)
    found += [
        Training(f"{start}-more", "instruct", ("both",), start, (), two)
        for start in ("composed", "joint")
    ]
    return {one.name: one for one in found}


TRAININGS = _trainings()
CHILDREN = (f"{IMAGE}-full-{FULL}", f"{AUDIO}-full-{FULL}")
_MERGES = {
    "average": ("average of the two", Merge("linear", (0.5, 0.5))),
    "weighted": ("weighted, as in 2506.01872", Merge("weighted")),
    "ties": ("TIES, largest 20%", Merge("ties", (1.0, 1.0), {"density": 0.2})),
    "linear": ("linear, a third each with the LLM", Merge("linear", (1 / 3, 1 / 3))),
}
_SENSE_TITLES = {IMAGE: "images alone", AUDIO: "sounds alone"}


def _rows() -> dict[str, Row]:
    rows = [Row(s, f"{_SENSE_TITLES[s]}, wings", (s,), senses=(s,)) for s in (IMAGE, AUDIO)]
    rows += [Row(f"composed-{rule}", f"composed, {rule}", (IMAGE, AUDIO), rule) for rule in RULES]
    rows += [
        Row("joint", "joint, wings", ("joint",)),
        Row("composed-more", "composed, then 25 steps with both", ("composed-more",)),
        Row("joint-more", "joint, then 25 steps with both", ("joint-more",)),
    ]
    for sense in (IMAGE, AUDIO):
        for rate in LLM_RATES:
            name = f"{sense}-full-{rate}"
            title = f"{_SENSE_TITLES[sense]}, full fine-tune at {LLM_RATES[rate]:g}"
            rows.append(Row(name, title, (name,), senses=(sense,)))
    rows.append(Row("joint-full", "joint, full fine-tune", ("joint-full",)))
    for key, (title, merge) in _MERGES.items():
        rows.append(Row(f"merged-{key}", f"merged full fine-tunes, {title}", CHILDREN, "", merge))
    orders = ((IMAGE, AUDIO), (AUDIO, IMAGE))
    for suffix, kind in (("-full", "full fine-tune"), ("", "wings")):
        for first, second in orders:
            name = f"{first}-{second}{suffix}"
            rows.append(Row(name, f"{first}, then {second}, {kind}", (name,)))
    return {row.key: row for row in rows}


ROWS = _rows()
# The primary comparison, named before the first run: questions that need both senses.
CHOSEN_RULE = "attended"
PRIMARY = (f"composed-{CHOSEN_RULE}", "joint")
# Rows of the first table and of the plot.
FIRST = (
    IMAGE, AUDIO, *PRIMARY, "composed-more", "joint-full", "merged-average", "image-audio-full",
)  # fmt: skip


def needed(row: Row) -> list[Training]:
    """The trainings that a row needs, each after those that it starts from."""
    found: dict[str, Training] = {}

    def add(name: str) -> None:
        for earlier in TRAININGS[name].earlier:
            add(earlier)
        found.setdefault(name, TRAININGS[name])

    for name in row.model:
        add(name)
    return list(found.values())
