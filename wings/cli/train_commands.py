"""Parsers of the commands about a recipe: data check, plan and train."""

import argparse
from typing import Any

from wings.errors import WingsError

from .parsing import add_command, amount, lazy, positive

OVERRIDES: dict[str, Any] = {"nargs": "*", "metavar": "key=value"}
RECIPE = "a YAML file, or the name of a shipped recipe such as qwen2.5-7b/align"


def add_data(commands: argparse._SubParsersAction) -> None:
    """`wings data`."""
    parser = commands.add_parser("data", help="inspect the data of a recipe before training")
    subcommands = parser.add_subparsers(dest="subcommand", required=True, metavar="WHAT")
    parser = add_command(
        subcommands,
        "check",
        lazy(".data:check"),
        ("train",),
        "read every record; report statistics and errors",
        "Reads, decodes and tokenises every record of a recipe as training does, in several"
        " processes and without the model's weights. The exit code is 1 if a record is invalid.",
    )
    parser.add_argument("recipe", help=RECIPE)
    parser.add_argument("overrides", help="as in training", **OVERRIDES)
    parser.add_argument(
        "--quick", type=positive, metavar="N", help="read only N records of each source"
    )
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="reader processes (default: one per core)"
    )


def add_plan(commands: argparse._SubParsersAction) -> None:
    """`wings plan`."""
    parser = add_command(
        commands,
        "plan",
        run_plan,
        ("train",),
        "estimate the GPU memory and the time of a recipe, without weights",
        "Prints parameters, memory per GPU, the largest batch that fits and the hours of a recipe."
        " Reads configurations only; no weights are loaded or downloaded.",
    )
    parser.add_argument("recipe", help=RECIPE)
    parser.add_argument("overrides", help="as for wings train", **OVERRIDES)
    parser.add_argument("--gpus", type=positive, default=1, help="number of GPUs (default: 1)")
    parser.add_argument("--memory", type=amount, default=80.0, help="GiB of each GPU (default: 80)")
    parser.add_argument(
        "--tflops",
        type=amount,
        default=989.0,
        help="dense bfloat16 TFLOP/s of each GPU (default: 989, an H100 SXM)",
    )
    parser.add_argument(
        "--bandwidth",
        type=amount,
        default=3.35,
        help="TB/s of each GPU's memory (default: 3.35, an H100 SXM)",
    )
    parser.add_argument(
        "--mfu", type=amount, default=0.35, help="model FLOPs utilisation (default: 0.35)"
    )


def run_plan(
    recipe: str,
    overrides: list[str],
    gpus: int,
    memory: float,
    tflops: float,
    bandwidth: float,
    mfu: float,
) -> None:
    """Runs `wings plan`."""
    from .plan import Card, plan

    plan(recipe, overrides, gpus, Card(memory, tflops, mfu, bandwidth))


def add_train(commands: argparse._SubParsersAction) -> None:
    """`wings train`."""
    parser = add_command(
        commands,
        "train",
        run_train,
        ("train",),
        "train one stage of a model from a recipe, in one process",
        "Trains one stage of a Wings model from a recipe in one process, as python -m wings.train"
        " does; for several processes use torchrun -m wings.train. Run the same command again to"
        " resume. On SIGTERM or SIGUSR1 it saves a checkpoint after the current step and exits with"
        " code 75 (not finished).",
    )
    parser.add_argument("recipe", nargs="?", help=RECIPE)
    parser.add_argument("overrides", help="such as learning_rates.projector=1e-4", **OVERRIDES)
    parser.add_argument(
        "--keys",
        nargs="?",
        const="",
        metavar="PREFIX",
        help="print every recipe key, or those that begin so, with type, default and meaning",
    )
    parser.add_argument(
        "--schema", action="store_true", help="print the JSON schema of a recipe, for an editor"
    )


def run_train(recipe: str | None, overrides: list[str], keys: str | None, schema: bool) -> int:
    """Runs `wings train`; see `wings.train.__main__.run` for the exit code.

    Raises:
        WingsError: neither a recipe nor a question about its keys, or keys that do not exist.
    """
    if keys is not None or schema:
        from wings.train.recipe_reference import print_reference

        print_reference(keys, schema)
        return 0
    if recipe is None:
        raise WingsError("Name a recipe: a YAML file, or a shipped one; see wings train --help.")
    from wings.train.__main__ import run

    return run(recipe, overrides, "wings train")
