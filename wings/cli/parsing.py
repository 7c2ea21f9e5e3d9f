"""Pieces of the command line's parser: a command, the types of numbers and shared options."""

import argparse
import math
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any


def lazy(target: str) -> Callable[..., Any]:
    """A function that imports `module:function` and calls it; relative names are in `wings.cli`."""
    module, _, name = target.partition(":")

    def call(**options: Any) -> Any:
        return getattr(import_module(module, __package__), name)(**options)

    return call


def add_command(
    commands: argparse._SubParsersAction,
    name: str,
    function: Callable[..., Any],
    needs: Sequence[str],
    help: str,
    description: str,
) -> argparse.ArgumentParser:
    """Adds a command; its arguments are the keyword arguments of its function.

    Args:
        commands: of the parent parser.
        name: of the command.
        function: runs it.
        needs: extras of the package that must be installed.
        help: one line for the list of commands.
        description: of the command, for its own help.
    """
    parser = commands.add_parser(name, help=help, description=description)
    parser.set_defaults(function=function, needs=needs)
    # Without a default, which would overwrite what was given before the command.
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )
    return parser


def add_answer_length(parser: argparse.ArgumentParser, default: int) -> None:
    """Adds `--max-new-tokens`."""
    parser.add_argument(
        "--max-new-tokens",
        type=positive,
        default=default,
        help=f"longest answer, in tokens (default: {default})",
    )


def add_generation(parser: argparse.ArgumentParser) -> None:
    """Adds the options of commands that ask a model many questions."""
    parser.add_argument(
        "--batch-size", type=positive, default=64, help="conversations per batch (default: 64)"
    )
    add_answer_length(parser, 32)


def add_files(parser: argparse.ArgumentParser, options: Iterable[tuple[str, str]]) -> None:
    """Adds options `(name, help)` that each take several files, and `--images`."""
    for name, text in options:
        parser.add_argument(
            f"--{name}", type=Path, nargs="+", default=[], metavar="FILE", help=text
        )
    add_images(parser)


def add_images(parser: argparse.ArgumentParser) -> None:
    """Adds `--images`."""
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="folder that paths of pictures and sounds are relative to (default: the folder of each"
        " file)",
    )


def positive(text: str) -> int:
    """A whole number from 1 to a million million, for argparse."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 10**12):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1")
    return int(text)


def seed(text: str) -> int:
    """A whole number from 0 that fits into 32 bits, for argparse."""
    if not (text.isascii() and text.isdigit() and int(text) < 2**32):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 to {2**32 - 1}")
    return int(text)


def amount(text: str) -> float:
    """A finite number above 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def points(text: str) -> float:
    """A number of percentage points, 0 or more, for argparse."""
    return 0.0 if text.strip("0.") == "" and text.strip(".") else amount(text)
