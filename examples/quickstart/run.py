"""`wings quickstart`: draws data, trains several methods, compares them, and asks one."""

import io
import multiprocessing
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from wings.errors import WingsError
from wings.examples.schedule import WORKERS, ProgressTable, StepContext, run_jobs
from wings.output_folder import OutputFolder

from .dataset import QuickstartAmounts, QuickstartSize, Writer

if TYPE_CHECKING:
    from .methods import Method

DEFAULT = Path("wings-quickstart")
FIRST = "showcase/1.png"
PREFLIGHT_SIZE = QuickstartSize(
    QuickstartAmounts(text=300, captions=16, conversations=16, held_out=6),
    tower_steps=2,
    llm_steps=2,
    align_steps=1,
    instruct_steps=2,
)


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
    size: QuickstartSize | None = None,
) -> Path:
    """Runs the quickstart and returns the folder of its results.

    Args:
        output: a folder that does not exist or is empty; None for a fresh one with the default
            name.
        seed: of pictures, conversations, new weights and order.
        everything: also the methods that do not fit into five minutes.
        from_nothing: also train the language model and the vision tower that come with the package.
        size: smaller for a trial.

    Raises:
        WingsError: `output` is not empty.
    """
    timer, size = PhaseTimer(), size or QuickstartSize()
    if not from_nothing:
        size = without_text(size)
    owned = claim(output)
    with owned.locked():
        return _quickstart(owned, timer, seed, everything, from_nothing, size)


def _quickstart(
    owned: OutputFolder,
    timer: PhaseTimer,
    seed: int,
    everything: bool,
    from_nothing: bool,
    size: QuickstartSize,
) -> Path:
    folder = owned.path
    console = Console(highlight=False)
    console.print(
        f"\n[bold]wings quickstart[/], seed {seed}, into [bold]{escape(str(folder))}[/]\n"
    )
    with console.status("loading torch and transformers"):
        from .methods import METHODS
    methods = [method for method in METHODS if method.default or everything]
    timer.lap("loading")
    try:
        preflight(folder, methods, seed, from_nothing)
    except BaseException:
        with suppress(OSError):
            owned.remove()
        raise
    timer.lap("preflight")
    run_all(console, timer, folder, methods, seed, size, from_nothing)
    console.print(
        f"  {timer.laps['total']:.0f} seconds. Everything is in [bold]{escape(str(folder))}[/]; "
        "go on with"
    )
    first = folder / "rows" / methods[0].key
    # Lines to copy are not broken.
    chat = f"  wings chat {first} --image {folder / FIRST}"
    console.print(Text(chat, style="bold"), soft_wrap=True)
    ask = f"  wings eval {first} --against {folder / 'llm'}\n"
    console.print(Text(ask, style="bold"), soft_wrap=True)
    return folder


def preflight(folder: Path, methods: "Sequence[Method]", seed: int, from_nothing: bool) -> None:
    """Runs every part of a quickstart on a few samples, in a folder that is removed.

    Args:
        folder: of the quickstart.
        methods: of the comparison; of those that differ in rates alone, one is run.
        seed, from_nothing: as `quickstart`.

    Raises:
        WingsError, PreflightError: a part fails; the message names it.
    """
    from wings.train.preflight import checking, small_run

    size = PREFLIGHT_SIZE if from_nothing else without_text(PREFLIGHT_SIZE)
    console = Console(file=io.StringIO(), width=120)
    chosen = one_of_each_kind(methods)
    with small_run(folder) as scratch:
        run_all(console, PhaseTimer(), scratch, chosen, seed, size, from_nothing, checking)


def one_of_each_kind(methods: "Sequence[Method]") -> "list[Method]":
    """The first of the methods that have the same parts and train the same parts."""
    kinds = {(str(method.wings), *method.rates): method for method in reversed(methods)}
    return list(kinds.values())[::-1]


def run_all(
    console: Console,
    timer: PhaseTimer,
    folder: Path,
    methods: "list[Method]",
    seed: int,
    size: QuickstartSize,
    from_nothing: bool,
    step: StepContext = nullcontext,
) -> None:
    """Draws the data, trains and scores every method, writes the report into `folder`.

    Args:
        console: prints bars, the table and the answers.
        timer: gets the time of each part.
        folder: exists.
        methods: of the comparison; the demo asks the first.
        seed: as `quickstart`.
        size: of data and trainings.
        from_nothing: as `quickstart`.
        step: a context for every part, by its name.
    """
    # These take ten seconds to load, so the command prints its first lines before.
    from . import demo, jobs, report

    # A forked worker shares the loaded libraries. torch has computed nothing yet, so there is no
    # thread pool that a fork could lose.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    reports = context.Queue()
    with ProcessPoolExecutor(WORKERS, context, jobs.begin, (reports,)) as pool:
        for _ in range(WORKERS):
            pool.submit(time.sleep, 0.1)  # forks now, before the table has threads
        with ProgressTable(console, reports) as table:
            with step("draw the data"):
                draw_data(table, folder / "data", seed, size)
            timer.lap("drawing")
            schedule = jobs.make_schedule(methods, folder, seed, size, from_nothing)
            for job in schedule:
                table.begin(job.key, job.label, job.steps)
            results = run_jobs(
                pool, schedule, lambda job, result: table.finish(job.key, result["note"]), step
            )
        timer.lap("training and scoring")
        with step("print the table"):
            before, method_results = report.read_results(methods, results)
            report.print_table(console, before, method_results)
        with step("ask one checkpoint"):
            checkpoint = folder / "rows" / methods[0].key
            shown = demo.show(console, pool, folder, checkpoint, seed)
        timer.lap("asking one checkpoint")
    with step("write the report"):
        # The untouched language model, for `wings eval --against`.
        shutil.copytree(jobs.models_folder(folder, from_nothing) / "llm", folder / "llm")
        about = {"seed": seed, "size": asdict(size), "seconds": timer.laps}
        document = {**about, "showcase": shown, "jobs": results}
        report.save(folder, before, method_results, document)


def without_text(size: QuickstartSize) -> QuickstartSize:
    """Removes the text to train a language model on from a size."""
    return replace(size, amounts=replace(size.amounts, text=0))


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


def draw_data(table: ProgressTable, folder: Path, seed: int, size: QuickstartSize) -> None:
    """Writes all data, with a bar."""
    total = size.amounts.total
    table.begin("draw", "draw pictures, write conversations", total)
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        if done % 100 == 0:
            table.step("draw", done, total)

    writer = Writer(folder, seed, count)
    writer.write(size.amounts)
    table.finish("draw", f"{writer.pictures:,} pictures, {total:,} conversations")
