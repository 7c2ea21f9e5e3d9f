"""`wings experiment`: the sweeps, both stages of every cell with every seed, then the page."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from wings.errors import WingsError, nearest
from wings.examples.schedule import WORKERS
from wings.output_folder import OutputFolder

from .cells import BY_KEY, Cell
from .jobs import KNOWN
from .packages import Packages
from .runs import RUNS, SEEDS, RunResult, borrow_sweeps
from .size import ExperimentSize
from .studies import STAGES, Study
from .trial import Trial

MAKER = "wings experiment"


def experiment(
    folder: Path,
    results: Path,
    study: Study = STAGES,
    cells: Sequence[Cell] | None = None,
    seeds: Sequence[int] = SEEDS,
    workers: int = WORKERS,
    packages: Packages | None = None,
    size: ExperimentSize | None = None,
    keep: bool = False,
) -> list[RunResult]:
    """Does the runs of a study that are missing, and writes its page after every run.

    First, every cell runs once on a few samples. Runs in `results` are not repeated, whichever
    machine made them: the experiment can be stopped and resumed at any time.

    Args:
        folder: of weights, data and stage 1, made where they are missing.
        results: gets `runs.jsonl`, `llm.json`, the page and the plot.
        study: what is compared.
        cells: to run, the study's if not given; the sweeps that choose their rates are run too.
        seeds: of both stages.
        workers: processes of one thread.
        packages: folders of pictures that are in no Python package.
        size: smaller for a trial.
        keep: the checkpoints of the runs stay in the folder, several hundred MB each.

    Raises:
        WingsError, PreflightError: a package is missing, or a part fails.
    """
    work, found = OutputFolder(folder, MAKER), OutputFolder(results, MAKER, "--results")
    with work.locked(), found.locked():
        trial = Trial(
            study, cells or study.cells, seeds, size or study.size, packages or Packages(), keep
        )
        if not study.inside:
            work.record("weights", "data", "stage1", "runs")
            found.record(RUNS, KNOWN, *study.pages)
            return trial.run(folder, results, workers)
        work.record("weights", study.inside)
        found.record(study.inside)
        inner, page = folder / study.inside, results / study.inside
        inner.mkdir(exist_ok=True)
        page.mkdir(exist_ok=True)
        (folder / "weights").mkdir(exist_ok=True)
        if not (inner / "weights").exists():
            (inner / "weights").symlink_to(Path("..", "weights"))
        # The cells keep the rates that were chosen on drawings.
        borrow_sweeps(page, results, trial.cells, trial.size)
        return replace(trial, others=(folder, results)).run(inner, page, workers)


def cells_of(keys: Sequence[str]) -> list[Cell]:
    """The cells with some keys.

    Raises:
        WingsError: an unknown key.
    """
    for key in keys:
        if key not in BY_KEY:
            raise WingsError(
                f"--cells: there is no cell {key!r}{nearest(key, BY_KEY)}; name some of"
                f" {', '.join(BY_KEY)}."
            )
    return [BY_KEY[key] for key in keys]
