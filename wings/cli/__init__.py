"""The `wings` command line: parses arguments; libraries are imported when a command runs."""

import argparse
from collections.abc import Sequence
from typing import Any

from wings import __version__
from wings.endings import make_streams_lenient, run_command
from wings.extras import require

from .compose_commands import add_compose
from .eval_commands import (
    add_chat,
    add_compare,
    add_eval,
    add_export,
    add_extract,
    add_gate,
    add_iit,
    add_shift,
)
from .example_commands import (
    add_emoji,
    add_experiment,
    add_parts,
    add_quickstart,
    add_speech,
)
from .merge_commands import add_merge
from .serve_commands import add_demo, add_serve
from .sharing_commands import add_card, add_push
from .train_commands import add_data, add_plan, add_train

# Parser attributes that are not arguments of a command's function.
INTERNAL = ("command", "subcommand", "function", "needs", "debug")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code, see `wings/endings.py`."""
    make_streams_lenient()
    options = vars(build_parser().parse_args(argv))

    def work() -> Any:
        # Missing packages are reported before any work, with the command that installs them.
        require(*options["needs"], *(["harness"] if options.get("tasks") else []))
        return options["function"](**{k: v for k, v in options.items() if k not in INTERNAL})

    return run_command(f"wings {options['command']}", work, options["debug"])


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="wings",
        description="Adds vision to any decoder LLM: train, measure and use such models.",
    )
    parser.add_argument("--version", action="version", version=f"wings {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_quickstart(commands)
    add_card(commands)
    add_chat(commands)
    add_compare(commands)
    add_compose(commands)
    add_data(commands)
    add_demo(commands)
    add_emoji(commands)
    add_eval(commands)
    add_experiment(commands)
    add_export(commands)
    add_extract(commands)
    add_gate(commands)
    add_iit(commands)
    add_merge(commands)
    add_parts(commands)
    add_plan(commands)
    add_push(commands)
    add_serve(commands)
    add_shift(commands)
    add_speech(commands)
    add_train(commands)
    return parser
