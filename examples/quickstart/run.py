"""`wings quickstart`: draw, let a small language model see in several ways, compare, ask."""

import multiprocessing
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from wings.errors import WingsError

from .dataset import Writer
from .progress_table import Board
from .schedule import run_jobs
from .size import Size

if TYPE_CHECKING:
    from .methods import Row

DEFAULT = Path("wings-quickstart")
FIRST = "showcase/1.png"
WORKERS = 2  # the machine this is made for has two cores
Step = Callable[[str], AbstractContextManager[object]]


class Clock:
    """Wall time of the phases, in seconds."""

    def __init__(self) -> None:
        # What was imported before this line took about as long as it kept a core busy.
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
    size: Size | None = None,
) -> Path:
    """Runs the whole way and returns the folder it wrote.

    Args:
        output: a folder that does not exist or is empty; None for a fresh one with the default
            name.
        seed: of pictures, conversations, new weights and order.
        everything: also the rows that do not fit into five minutes.
        from_nothing: also train the language model and the vision tower that come with the package.
        size: smaller for a trial.

    Raises:
        WingsError: `output` holds something.
    """
    clock, size = Clock(), size or Size()
    if not from_nothing:
        size = without_text(size)
    folder = claim(output)
    console = Console(highlight=False)
    console.print(f"\n[bold]wings quickstart[/], seed {seed}, into [bold]{folder}[/]\n")
    with console.status("loading torch and transformers"):
        from . import plan, preflight
    rows = [row for row in plan.ROWS if row.default or everything]
    clock.lap("loading")
    preflight.check(folder, rows, seed, from_nothing)
    clock.lap("preflight")
    run_all(console, clock, folder, rows, seed, size, from_nothing)
    console.print(
        f"  {clock.laps['total']:.0f} seconds. Everything is in [bold]{folder}[/]; go on with"
    )
    first = folder / "rows" / rows[0].key
    console.print(f"  [bold]wings chat {first} --image {folder / FIRST}[/]")
    console.print(f"  [bold]wings eval {first} --against {folder / 'llm'}[/]\n")
    return folder


def run_all(
    console: Console,
    clock: Clock,
    folder: Path,
    rows: "list[Row]",
    seed: int,
    size: Size,
    from_nothing: bool,
    step: Step = nullcontext,
) -> None:
    """Draws the data, trains and scores every row, writes the report into `folder`.

    Args:
        console: where bars, the table and the answers are printed.
        clock: gets the time of each part.
        folder: exists.
        rows: of the comparison; the first is asked about pictures in the end.
        seed: as `quickstart`.
        size: of data and trainings.
        from_nothing: as `quickstart`.
        step: a context for every part, by its name.
    """
    # They take ten seconds to load, and the command says so before.
    from . import demo as showcase
    from . import jobs, plan, report

    # A forked worker shares the libraries that took ten seconds to load. Nothing has been computed
    # yet, so there is no pool of threads that a fork could lose.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    reports = context.Queue()
    with ProcessPoolExecutor(WORKERS, context, jobs.begin, (reports,)) as pool:
        for _ in range(WORKERS):
            pool.submit(time.sleep, 0.1)  # forks now, before the board has threads
        with Board(console, reports) as board:
            with step("draw the data"):
                draw_data(board, folder / "data", seed, size)
            clock.lap("drawing")
            work = plan.make_plan(rows, folder, seed, size, from_nothing)
            for job in work:
                board.begin(job.key, job.label, job.steps)
            results = run_jobs(
                pool, work, lambda job, result: board.finish(job.key, result["note"]), step
            )
        clock.lap("training and scoring")
        with step("print the table"):
            before, outcomes = report.outcomes_of(rows, results)
            report.show(console, before, outcomes)
        with step("ask one checkpoint"):
            checkpoint = folder / "rows" / rows[0].key
            shown = showcase.show(console, pool, folder, checkpoint, seed)
        clock.lap("asking one checkpoint")
    with step("write the report"):
        # What the rows grew from, beside them: they can be measured against it.
        shutil.copytree(plan.models_of(folder, from_nothing) / "llm", folder / "llm")
        about = {"seed": seed, "size": asdict(size), "seconds": clock.laps}
        report.save(folder, before, outcomes, {**about, "showcase": shown, "jobs": results})


def without_text(size: Size) -> Size:
    """The same without text for a language model to learn from."""
    return replace(size, amounts=replace(size.amounts, text=0))


def claim(output: Path | None) -> Path:
    """The folder to write to, made; nothing that is there is overwritten.

    Raises:
        WingsError: `output` holds something.
    """
    if output is None:
        output, n = DEFAULT, 1
        while output.exists():
            n += 1
            output = DEFAULT.with_name(f"{DEFAULT.name}-{n}")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise WingsError(
            f"{output} is there already and may hold another run; name a new folder with --output"
        )
    output.mkdir(parents=True, exist_ok=True)
    return output


def draw_data(board: Board, folder: Path, seed: int, size: Size) -> None:
    """Writes all data, with a bar."""
    total = size.amounts.total
    board.begin("draw", "draw pictures, write conversations", total)
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        if done % 100 == 0:
            board.step("draw", done, total)

    writer = Writer(folder, seed, count)
    writer.write(size.amounts)
    board.finish("draw", f"{writer.pictures:,} pictures, {total:,} conversations")
