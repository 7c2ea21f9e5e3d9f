"""The merges that are measured, in groups that keep one child's tower and projector."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wings.eval.fronts.measure_front import FrontPoint
from wings.merge.recipe_of_command import recipe_of_command

from .children import QUICKSTART

TABLE = "embed_tokens"  # which is the output head too in both LLMs
# Merges of one linear weight, which `wings merge --sweep` chooses from.
SWEPT = re.compile(r"linear [\d.]+")
UNMERGED, GENTLE = "unmerged", "gentle full fine-tune"


@dataclass(frozen=True)
class Merge:
    """One merge.

    Attributes:
        name: in tables.
        method: of `wings merge`.
        weights: of the children; one for all.
        parameters: of the method.
        is_short: True for those that are measured on SmolLM2 too, where they take minutes.
    """

    name: str
    method: str
    weights: Sequence[float] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    is_short: bool = True


def _table(table: float, rest: float) -> dict[str, Any]:
    return {"weight": [{"filter": TABLE, "value": table}, {"value": rest}]}


def _linear(*weights: float) -> list[Merge]:
    return [Merge(f"linear {w:g}", "linear", [w], is_short=w != 0) for w in weights]


# What the child has beside its LLM -> the merges. `linear 0` is the LLM under the child's parts.
GROUPS: dict[str, Sequence[Merge]] = {
    "full": [
        *_linear(0, 0.25, 0.5, 0.75),
        Merge("linear, table 0, rest 1", "linear", parameters=_table(0, 1)),
        Merge("linear, table 1, rest 0.5", "linear", parameters=_table(1, 0.5)),
        Merge("linear, table 1, rest 0.75", "linear", parameters=_table(1, 0.75), is_short=False),
        *(
            Merge(
                f"child {weight:+g} x largest {share:.0%}",
                "task_arithmetic", [weight], {"density": share, "start": "child"}, short,
            )
            for weight, share, short in (
                (-0.5, 0.2, False), (-1, 0.2, True), (-1, 0.5, False),
                (0.5, 0.2, True), (1, 0.2, False),
            )
        ),
        Merge("ties, largest 20%", "ties", [1], {"density": 0.2}),
        Merge("LLM + largest 50%", "task_arithmetic", [1], {"density": 0.5}, is_short=False),
        Merge("LLM + 0.5 x largest 20%", "task_arithmetic", [0.5], {"density": 0.2}, False),
    ],
    "wings": [
        *_linear(0, 0.25, 0.5, 0.75),
        Merge("linear, table 0, rest 1", "linear", parameters=_table(0, 1), is_short=False),
        Merge("ties, largest 20%", "ties", [1], {"density": 0.2}),
    ],
    "two": [
        Merge("average of both children", "linear", [0.5]),
        Merge("average of both and the LLM", "linear", [1 / 3], is_short=False),
        Merge("weighted, as in 2506.01872", "weighted"),
        Merge("ties of both, largest 20%", "ties", [1], {"density": 0.2}, is_short=False),
    ],
}  # fmt: skip


def merges_of(base: str, group: str) -> list[Merge]:
    """The merges of a group that are measured on the children of an LLM."""
    return [merge for merge in GROUPS[group] if merge.is_short or base == QUICKSTART]


def points_of(base: str, group: str, llm: Path, folders: Mapping[str, Path]) -> list[FrontPoint]:
    """The merges of a group with the folders of their models.

    Of two children the full fine-tune keeps its tower and projector.
    """
    children = [str(folders[name]) for name in (("full", "wings") if group == "two" else (group,))]
    return [
        FrontPoint(
            merge.name,
            None,
            recipe_of_command(
                [str(llm), *children],
                merge.method,
                merge.weights,
                merge.parameters,
                None,
                children[0],
            ),
        )
        for merge in merges_of(base, group)
    ]
