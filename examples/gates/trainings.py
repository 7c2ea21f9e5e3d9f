"""The trainings of the gate experiment: a gate, a seed and an amount of data each."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wings.examples.quickstart.jobs import ASSETS
from wings.examples.quickstart.methods import TUNED, Method, align_recipe, instruct_recipe
from wings.examples.training import unwatched
from wings.train.result import TrainResult
from wings.train.run import train

SEEDS = (11, 12, 13)  # of data, new weights and order, in both stages
# gate -> its options of `WingsConfig` in the second stage; the first has no router
GATES: dict[str, dict[str, Any]] = {
    "none": {"router": None},
    "attended": {"router": "attended"},
    "attended, detached": {"router": "attended", "gate_detach": True},
    "hill": {"router": "attended", "gate_shape": "hill"},
    "hill, detached": {"router": "attended", "gate_shape": "hill", "gate_detach": True},
}


@dataclass(frozen=True)
class DataSize:
    """Pictures and steps of both stages.

    Attributes:
        name: in results.
        pictures: records of each stage; None for the quickstart's.
        align_steps, instruct_steps: optimizer steps.
    """

    name: str
    pictures: int | None = None
    align_steps: int = 200
    instruct_steps: int = 350


SIZES = (
    DataSize("full"),
    DataSize("150 pictures, 40 steps", 150, 40, 40),
    DataSize("150 pictures, 400 steps", 150, 400, 400),
)
BY_NAME = {size.name: size for size in SIZES}
FULL, FEW, LONG = BY_NAME
# Pairs of size and gate in the order in which they are trained, each with every seed: the ones that
# decide first.
ORDER = (
    *((FULL, gate) for gate in ("none", "attended", "attended, detached")),
    *((FEW, gate) for gate in ("none", "attended")),
    (FULL, "hill, detached"),
    *((LONG, gate) for gate in ("none", "attended")),
    (FULL, "hill"),
)


@dataclass(frozen=True)
class GateTraining:
    """One second stage.

    Attributes:
        size: name of its `DataSize`.
        gate: name in `GATES`.
        seed: of both stages.
    """

    size: str
    gate: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.size}-{self.gate}-{self.seed}".replace(", ", "-").replace(" ", "")


def all_trainings() -> Iterator[GateTraining]:
    """All trainings in their order."""
    for size, gate in ORDER:
        for seed in SEEDS:
            yield GateTraining(size, gate, seed)


def method_of(gate: str) -> Method:
    """The quickstart's frozen method with a gate."""
    return Method(gate, gate, {**TUNED, **GATES[gate]}, learner_rate=3e-3)


def run_align(size: DataSize, seed: int, data: Path, folder: Path) -> TrainResult:
    """Runs the first stage, which all gates of a size and seed share."""
    method = method_of("none")
    recipe = align_recipe(method, data, ASSETS, folder, size.align_steps, seed)
    return train(recipe, watch=unwatched)


def run_instruct(training: GateTraining, data: Path, start: Path, folder: Path) -> TrainResult:
    """Runs the second stage."""
    steps, method = BY_NAME[training.size].instruct_steps, method_of(training.gate)
    recipe = instruct_recipe(method, data, start, folder, steps, training.seed)
    return train(recipe, watch=unwatched)
