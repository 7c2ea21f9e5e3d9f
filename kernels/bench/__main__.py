"""`python -m wings.kernels.bench`: checks both operations and whole models, then times them.

Nothing is timed whose check failed. A folder gets JSON, a page and curves; one command writes
everything in a folder of `kernels/results/`.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markdown import Markdown

from wings.endings import run_command
from wings.errors import WingsError
from wings.output_folder import OutputFolder

from . import results
from .curves import draw_curves
from .environment import environment, slug
from .measure import keep_heap
from .models import check_model, measure_decoding, measure_models, measure_static_decoding
from .operations import check_operations, measure_choices, measure_flex, measure_operations
from .run import Run
from .setting import CPU, GPU, QUICK, Preset, Shape, with_lengths

# Words in the names of the parts that `--only` keeps.
ONLY = {"models": ("model", "decoding"), "operations": ("operations", "choices", "flex")}
PRESETS = {preset.name: preset for preset in (CPU, GPU)}


def main() -> int:
    """The exit status: 1 if a check or a part failed, 2 if the folder cannot be used."""
    words = sys.argv[1:]
    arguments = parse(words)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    keep_heap()
    torch.manual_seed(0)
    where = environment(device, words)
    output = arguments.output or Path("wings-bench", slug(where["device"]))
    owned = OutputFolder(output, "wings.kernels.bench")
    try:
        with owned.locked():
            owned.record(*results.FILES)
            return bench(arguments, device, where, output)
    except WingsError as error:
        print(f"wings.kernels.bench: {error}", file=sys.stderr)
        return 2


def bench(
    arguments: argparse.Namespace, device: torch.device, where: dict[str, Any], output: Path
) -> int:
    """Runs all parts and writes their results after each; the exit status."""
    run = Run(choose(arguments, device), device, arguments.minutes, Console(stderr=True))
    for name, part in parts(run):
        if arguments.only is None or any(word in name for word in ONLY[arguments.only]):
            run.attempt(name, part)
        results.write(output, run, where)
    draw_curves(output, run, where)
    console = Console()
    console.print(Markdown(results.page(run, where)))
    console.print(f"Written to {output}: JSON, README.md, curves.")
    return int(not run.is_green)


def parts(run: Run) -> Iterator[tuple[str, Callable[[], None]]]:
    """Parts of the run by name, the most important first, as a run may be cut off."""
    preset, first = run.preset, run.preset.shapes[0]

    def part(
        function: Callable[..., None], shape: Shape, *rest: object
    ) -> tuple[str, Callable[[], None]]:
        name = f"{function.__name__.replace('_', ' ')}, {shape.name}"
        return name, partial(function, run, shape, *rest)

    for shape in preset.shapes:
        yield part(check_operations, shape)
        yield part(check_model, shape)
        yield part(measure_operations, shape, preset.main, preset.batches)
        yield part(measure_models, shape, preset.main, preset.batches)
        yield part(measure_decoding, shape)
    yield part(measure_choices, first, preset.main or preset.lengths)
    other = [length for length in preset.lengths if length not in preset.main]
    yield part(measure_operations, first, other, preset.batches[:1])
    other += [length for length in preset.memory if length not in (*preset.main, *other)]
    yield part(measure_models, first, other, preset.batches[:1])
    yield part(measure_flex, first)
    yield part(measure_static_decoding, first)


def parse(words: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m wings.kernels.bench", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--preset", choices=PRESETS, help="default: by the device")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, done in seconds")
    parser.add_argument("--lengths", type=int, nargs="+", metavar="T", help="timed, in tokens")
    parser.add_argument("--only", choices=ONLY, help="whole models, or operations alone")
    parser.add_argument(
        "--minutes", type=float, help="begin no measurement after this time, and list the rest"
    )
    parser.add_argument("--output", type=Path, help="default: wings-bench/DEVICE")
    return parser.parse_args(words)


def choose(arguments: argparse.Namespace, device: torch.device) -> Preset:
    """The preset, with the lengths that were given."""
    preset = PRESETS[arguments.preset or ("gpu" if device.type == "cuda" else "cpu")]
    if arguments.quick:
        preset = QUICK
    return preset if arguments.lengths is None else with_lengths(preset, arguments.lengths)


if __name__ == "__main__":
    sys.exit(run_command("wings.kernels.bench", main))
