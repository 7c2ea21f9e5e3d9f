"""`wings quickstart`: draws data, trains, compares, and asks one checkpoint."""

import io
import multiprocessing
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from wings.errors import WingsError
from wings.examples.schedule import WORKERS, ProgressTable, StepContext, run_jobs
from wings.extras import require
from wings.output_folder import OutputFolder

from .dataset import QuickstartSize

if TYPE_CHECKING:
    from .comparison import Comparison
    from .sounds import HearingSize

DEFAULT = Path("wings-quickstart")


class PhaseTimer:
    """Wall time of the phases, in seconds."""

    def __init__(self) -> None:
        # Imports before this line took about as long as they kept a core busy.
        self.begun = self.last = time.perf_counter() - time.process_time()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Ends a phase."""
        now = time.perf_counter()
        self.laps[name], self.last = round(now - self.last, 1), now
        self.laps["total"] = round(now - self.begun, 1)


def quickstart(
    output: Path | None,
    seed: int = 0,
    everything: bool = False,
    from_nothing: bool = False,
    audio: bool = False,
    size: QuickstartSize | None = None,
    sounds: "HearingSize | None" = None,
) -> Path:
    """Runs the quickstart and returns the folder of its results.

    Args:
        output: a folder that does not exist or is empty; None for a fresh one with the default
            name.
        seed: of pictures, conversations, new weights and order.
        everything: also the methods that do not fit into five minutes.
        from_nothing: also train the language model and the vision tower that come with the package.
        audio: of the methods only the first; a model that hears besides, and both composed.
        size: smaller for a trial.
        sounds: likewise, of the model that hears.

    Raises:
        WingsError: `output` is not empty, `everything` with `audio`, or a package is missing.
    """
    timer, size = PhaseTimer(), size or QuickstartSize()
    if audio:
        if everything:
            raise WingsError("--all compares methods that see and --audio trains one: give one.")
        require("audio")
    owned = claim(output)
    with owned.locked():
        console = Console(highlight=False)
        console.print(
            f"\n[bold]wings quickstart[/], seed {seed}, into [bold]{escape(str(owned.path))}[/]\n"
        )
        with console.status("loading torch and transformers"):
            plan = make_plan(seed, everything, from_nothing, audio, size, sounds)
        if plan.introduction:
            console.print(f"  {plan.introduction}\n", soft_wrap=True, markup=False)
        return _quickstart(owned, console, timer, plan)


def make_plan(
    seed: int,
    everything: bool,
    from_nothing: bool,
    audio: bool,
    size: QuickstartSize,
    sounds: "HearingSize | None",
) -> "Comparison":
    """The comparison, or the composition of two senses; the arguments are `quickstart`'s."""
    # These take ten seconds to load, so the command prints its first lines before.
    from .comparison import Comparison
    from .composition import Composition
    from .methods import METHODS

    methods = [method for method in METHODS if method.default or everything]
    if audio:
        return Composition.of(methods[:1], seed, size, from_nothing, sounds)
    return Comparison(methods, seed, size, from_nothing)


def _quickstart(
    owned: OutputFolder, console: Console, timer: PhaseTimer, plan: "Comparison"
) -> Path:
    folder = owned.path
    timer.lap("loading")
    try:
        preflight(folder, plan)
    except BaseException:
        with suppress(OSError):
            owned.remove()
        raise
    timer.lap("preflight")
    run_all(console, timer, folder, plan)
    console.print(
        f"  {timer.laps['total']:.0f} seconds. Everything is in [bold]{escape(str(folder))}[/]; "
        "go on with"
    )
    for command in plan.commands(folder):
        # Lines to copy are not broken.
        console.print(Text(f"  {command}", style="bold"), soft_wrap=True)
    console.print()
    return folder


def preflight(folder: Path, plan: "Comparison") -> None:
    """Runs every part of a quickstart on a few samples, in a folder that is removed.

    Args:
        folder: of the quickstart.
        plan: of the quickstart.

    Raises:
        WingsError, PreflightError: a part fails; the message names it.
    """
    from wings.train.preflight import checking, small_run

    console = Console(file=io.StringIO(), width=120)
    with small_run(folder) as scratch:
        run_all(console, PhaseTimer(), scratch, plan.preflight(), checking)


def run_all(
    console: Console,
    timer: PhaseTimer,
    folder: Path,
    plan: "Comparison",
    step: StepContext = nullcontext,
) -> None:
    """Draws the data, trains and scores, writes the report into `folder`.

    Args:
        console: prints bars, the table and the answers.
        timer: gets the time of each part.
        folder: exists.
        plan: what is drawn, trained, asked and reported.
        step: a context for every part, by its name.
    """
    from . import jobs

    # A forked worker shares the loaded libraries. torch has computed nothing yet, so there is no
    # thread pool that a fork could lose.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    reports = context.Queue()
    with ProcessPoolExecutor(WORKERS, context, jobs.begin, (reports,)) as pool:
        for _ in range(WORKERS):
            pool.submit(time.sleep, 0.1)  # forks now, before the table has threads
        with ProgressTable(console, reports) as table:
            with step("draw the data"):
                plan.draw(table, folder / "data")
            timer.lap("drawing")
            schedule = plan.jobs(folder)
            for job in schedule:
                table.begin(job.key, job.label, job.steps)
            results = run_jobs(
                pool, schedule, lambda job, result: table.finish(job.key, result["note"]), step
            )
        timer.lap("training and scoring")
        with step("print the table"):
            plan.print_results(console, results)
        with step("ask one checkpoint"):
            shown = plan.ask(console, pool, folder)
        timer.lap("asking one checkpoint")
    with step("write the report"):
        # The untouched language model, for `wings eval --against`.
        shutil.copytree(plan.llm(folder), folder / "llm")
        plan.save(folder, results, shown, timer.laps)


def claim(output: Path | None) -> OutputFolder:
    """Chooses, marks and returns the output folder.

    Raises:
        WingsError: `output` is not empty.
    """
    if output is None:
        output, n = DEFAULT, 1
        while output.exists():
            n += 1
            output = DEFAULT.with_name(f"{DEFAULT.name}-{n}")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise WingsError(
            f"'{output}' already exists and is not empty; name a new folder with --output."
        )
    owned = OutputFolder(output, "wings quickstart")
    owned.claim()
    return owned
