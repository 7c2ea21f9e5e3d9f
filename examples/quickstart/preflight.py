"""The preflight of a quickstart: all of it once, with a few records and a step or two."""

import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from wings.train.preflight import checking, small_run

from .methods import Row
from .run import Clock, run_all, without_text
from .size import Amounts, Size

FEW = Size(
    Amounts(text=300, captions=16, conversations=16, held_out=6),
    tower_steps=2,
    llm_steps=2,
    align_steps=1,
    instruct_steps=2,
)


def check(folder: Path, rows: Sequence[Row], seed: int, from_nothing: bool) -> None:
    """Runs every part of a quickstart on a handful of samples, in a folder that is removed.

    Args:
        folder: of the quickstart, empty; removed where the preflight fails.
        rows: of the comparison; of those that differ in rates alone, one is run.
        seed, from_nothing: of the quickstart.

    Raises:
        WingsError, PreflightError: what would fail later, with the step named.
    """
    size = FEW if from_nothing else without_text(FEW)
    console = Console(file=io.StringIO(), width=120)
    try:
        with small_run(folder) as scratch:
            run_all(console, Clock(), scratch, kinds(rows), seed, size, from_nothing, checking)
    except BaseException:
        with suppress(OSError):
            folder.rmdir()
        raise


def kinds(rows: Sequence[Row]) -> list[Row]:
    """The first row of every kind: of those with the same parts and the same parts trained."""
    return list({(str(row.wings), *row.rates): row for row in reversed(rows)}.values())[::-1]
