"""The runs of the experiment, their order, and the rates that the sweeps choose."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .cells import BY_KEY, PROJECTOR_RATES, Cell
from .measure import KindScores
from .recipes import Rates
from .size import ExperimentSize

SEEDS = (0, 1, 2)
SWEEP_SEED = 100
RUNS = "runs.jsonl"
FIGURES = "figures.json"  # of a finished stage 1, in its folder


@dataclass(frozen=True)
class Stage1:
    """Stage 1 of the runs that share it: kind, rates, seed and steps."""

    kind: str
    rates: Rates
    seed: int
    steps: int

    def output(self, folder: Path) -> Path:
        """The folder of its checkpoint."""
        rates = f"{self.rates.projector:g}-{self.rates.branch:g}"
        return folder / "stage1" / f"{self.kind}-{rates}-seed{self.seed}-{self.steps}"

    def is_done(self, folder: Path) -> bool:
        """Returns whether it is finished, with a checkpoint or an error."""
        return (self.output(folder) / FIGURES).exists()


@dataclass(frozen=True)
class ExperimentRun:
    """Both stages of a cell with one seed.

    Attributes:
        part: "sweep" (short stages, scored on the validation part) or "run".
        cell: its key.
        rates: of both stages.
        seed: of both stages.
        steps: of stage 1 and stage 2.
    """

    part: str
    cell: str
    rates: Rates
    seed: int
    steps: tuple[int, int]

    @property
    def stage_1(self) -> Stage1:
        """The stage that it starts from."""
        kind, rates = BY_KEY[self.cell].stage_1, self.rates
        if kind == "projector":
            # Nothing of the branch is trained there, so runs of all branch rates share it.
            rates = Rates(rates.projector, rates.projector)
        return Stage1(kind, rates, self.seed, self.steps[0])

    @property
    def name(self) -> str:
        """The name of its folder."""
        rates = f"{self.rates.projector:g}-{self.rates.branch:g}"
        return f"{self.part}-{self.cell}-{rates}-seed{self.seed}-{self.steps[1]}"

    def output(self, folder: Path) -> Path:
        """The folder of its checkpoint, which is kept on request."""
        return folder / "runs" / self.name


@dataclass(frozen=True)
class RunResult:
    """A run and its record, one line of `runs.jsonl`: see `jobs.run`; or `failed`, an error."""

    run: ExperimentRun
    record: dict[str, Any]

    @property
    def seed(self) -> int:
        """The seed of both stages."""
        return self.run.seed

    @property
    def failed(self) -> bool:
        """Returns whether the run ended without a model."""
        return "failed" in self.record

    def line(self) -> dict[str, Any]:
        """As plain data for `from_line`."""
        return {**asdict(self.run), **self.record}

    @classmethod
    def from_line(cls, line: dict[str, Any]) -> "RunResult":
        """Reads what `line` returned, also after JSON."""
        record = dict(line)
        part, cell, rates, seed, steps = (
            record.pop(name) for name in ("part", "cell", "rates", "seed", "steps")
        )
        run = ExperimentRun(part, cell, Rates(**rates), seed, (steps[0], steps[1]))
        return cls(run, record)


Task = Stage1 | ExperimentRun


def sweep_runs(cell: Cell, size: ExperimentSize) -> list[ExperimentRun]:
    """The runs that choose the rates of a cell: every projector's rate with every other rate."""
    return [
        ExperimentRun("sweep", cell.swept, Rates(projector, branch), SWEEP_SEED, size.sweep_steps)
        for projector in PROJECTOR_RATES
        for branch in BY_KEY[cell.swept].rates
    ]


def selection_score(result: RunResult) -> float:
    """The mean of pictures and text after a picture on the validation part; 0 for a failed run."""
    if result.failed:
        return 0.0
    scores = result.record["scores"]
    return (percent(scores["pictures"]) + percent(scores["mixed"])) / 2


def chosen_rates(results: Sequence[RunResult], cell: Cell, size: ExperimentSize) -> Rates | None:
    """The rates of a cell's runs; None before its sweep is finished."""
    runs = sweep_runs(cell, size)
    found = [result for result in results if result.run in runs]
    if len(found) < len(runs):
        return None
    return max(found, key=selection_score).run.rates


def runs_of(
    results: Sequence[RunResult], cell: Cell, seeds: Sequence[int], size: ExperimentSize
) -> list[ExperimentRun]:
    """The runs of a cell at its chosen rates; none before its sweep is finished."""
    rates = chosen_rates(results, cell, size)
    steps = (size.align_steps, size.steps)
    return [] if rates is None else [ExperimentRun("run", cell.key, rates, s, steps) for s in seeds]


def pending_tasks(
    results: Sequence[RunResult],
    folder: Path,
    cells: Sequence[Cell],
    seeds: Sequence[int],
    size: ExperimentSize,
) -> Iterator[Task]:
    """The runs still to do that can begin now, in order: sweeps, then seed by seed.

    Args:
        results: the finished runs.
        folder: of the experiment, with finished stages.
        cells: to run; the sweeps that they need come first.
        seeds: of both stages.
        size: of the experiment.
    """
    done = {result.run for result in results}
    order = dict.fromkeys(run for cell in cells for run in sweep_runs(cell, size))
    for seed in seeds:
        for cell in cells:
            order |= dict.fromkeys(runs_of(results, cell, (seed,), size))
    for run in order:
        if run not in done:
            yield run if run.stage_1.is_done(folder) else run.stage_1


def percent(kinds: KindScores) -> float:
    """The mean score of a test in percent."""
    scores = [score for scores in kinds.values() for score in scores]
    return 100 * sum(scores) / len(scores)


def add_run(folder: Path, result: RunResult, name: str = RUNS) -> None:
    """Appends a run to `runs.jsonl`, or to another file of a folder of results."""
    with (folder / name).open("a", encoding="utf-8") as file:
        file.write(json.dumps(result.line()) + "\n")


def read_runs(folder: Path, name: str = RUNS) -> list[RunResult]:
    """Reads the finished runs of a folder of results; none where the file is missing."""
    if not (folder / name).exists():
        return []
    lines = (folder / name).read_text(encoding="utf-8").splitlines()
    return [RunResult.from_line(json.loads(line)) for line in lines]


def borrow_sweeps(folder: Path, other: Path, cells: Iterable[Cell], size: ExperimentSize) -> None:
    """Copies the sweeps that choose the rates of `cells` from `other` where they are missing."""
    wanted = {run for cell in cells for run in sweep_runs(cell, size)}
    have = {result.run for result in read_runs(folder)}
    for result in read_runs(other):
        if result.run in wanted - have:
            add_run(folder, result)
