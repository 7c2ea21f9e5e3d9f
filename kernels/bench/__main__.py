"""`python -m wings.kernels.bench`: checks, then times both operations and whole models.

Nothing is timed whose check is red. Ratios come first, absolute times after them; a folder takes
JSON, a page and curves. One command makes everything that `kernels/results/` holds.
"""

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from . import folder
from .check import check_model, check_operations
from .choices import measure_choices
from .heap import keep_heap
from .operation import measure_flex, measure_operations
from .preset import CPU, GPU, QUICK, Preset, with_lengths
from .record import command_line, surroundings
from .run import Run
from .static import measure_static_decoding
from .table import drawn, ratio_cells, split, value_cells
from .whole import measure_decoding, measure_models

PRESETS = {preset.name: preset for preset in (CPU, GPU)}


def main() -> int:
    """The exit status: 1 if a check was red or a part broke."""
    arguments = read(command_line())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    preset = chosen(arguments, device)
    keep_heap()
    console = Console(stderr=True)
    torch.manual_seed(0)
    where = surroundings(device, command_line())
    output = arguments.output or Path("wings-bench", folder.slug(where["device"]))
    run = Run(preset, device, arguments.minutes, console)
    for part, *rest in parts(run):
        name = f"{part.__name__.replace('_', ' ')}, {rest[0].name}"
        run.attempt(name, partial(part, run, *rest))
        # What a run that is cut off has found stays.
        folder.write(output, run, where)
    report(run, where, output)
    return int(not run.is_green)


def parts(run: Run) -> Iterator[tuple]:
    """Functions and their arguments, in the order of what matters: a run may be cut off."""
    preset, first = run.preset, run.preset.shapes[0]
    for shape in preset.shapes:
        yield check_operations, shape
        yield check_model, shape
        yield measure_operations, shape, preset.main, preset.batches
        yield measure_models, shape, preset.main, preset.batches
        yield measure_decoding, shape
    yield measure_choices, first, preset.main or preset.lengths
    other = [length for length in preset.lengths if length not in preset.main]
    yield measure_operations, first, other, preset.batches[:1]
    other += [length for length in preset.memory if length not in (*preset.main, *other)]
    yield measure_models, first, other, preset.batches[:1]
    yield measure_flex, first
    yield measure_static_decoding, first


def read(words: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m wings.kernels.bench", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--preset", choices=PRESETS, help="default: by the device")
    parser.add_argument("--quick", action="store_true", help="a few seconds that show it runs")
    parser.add_argument("--lengths", type=int, nargs="+", metavar="T", help="timed, in tokens")
    parser.add_argument(
        "--minutes", type=float, help="begin nothing new after so long; what is left out says so"
    )
    parser.add_argument("--output", type=Path, help="default: wings-bench/DEVICE")
    return parser.parse_args(words)


def chosen(arguments: argparse.Namespace, device: torch.device) -> Preset:
    """The preset, with the lengths that were asked for."""
    preset = GPU if device.type == "cuda" else CPU
    if arguments.preset is not None:
        preset = PRESETS[arguments.preset]
    if arguments.quick:
        preset = QUICK
    return preset if arguments.lengths is None else with_lengths(preset, arguments.lengths)


def report(run: Run, where: dict, output: Path) -> None:
    """Tables on the standard output, files in the folder."""
    console = Console()
    red = [check for check in run.checks if not check["green"]]
    colour = "green" if run.is_green else "red"
    broken = "".join(f"\nbroken: {failure}" for failure in run.failures)
    console.print(f"\n{len(run.checks)} checks, {len(red)} red{broken}", style=colour)
    for title, rows in split(run.rows).items():
        console.print(drawn(f"{title} (lower is better)", *ratio_cells(rows)))
    for rows in split(run.rows).values():
        title = f"Medians on this machine ({where['device']}, {where['threads']} threads)"
        console.print(drawn(title, *value_cells(rows)))
    folder.draw_all(output, run, where)
    console.print(f"Written to {output}: JSON, README.md, curves.")


if __name__ == "__main__":
    sys.exit(main())
