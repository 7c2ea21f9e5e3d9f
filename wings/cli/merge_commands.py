"""The parser of `wings merge`."""

import argparse
from pathlib import Path

from .parsing import add_command, lazy


def add_merge(commands: argparse._SubParsersAction) -> None:
    """`wings merge`."""
    parser = add_command(
        commands,
        "merge",
        lazy(".merge:merge"),
        (),
        "merge a language model and models trained from it, such as one that lost its language",
        "Merges the language model inside each child with the LLM that it was trained from, tensor"
        " by tensor. What a child has beside its language model, such as a vision tower and"
        " learners, is kept as it is. Children are Wings checkpoints, models of transformers with"
        " other parts, or language models.",
    )
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help="the LLM, then its children; folders or Hub ids"
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="models, method and parameters in mergekit's form",
    )
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument(
        "--method",
        help="linear (default), task_arithmetic, ties, weighted, or any of mergekit (extra:"
        " mergekit)",
    )
    parser.add_argument(
        "--weight",
        dest="weights",
        type=number,
        nargs="+",
        default=[],
        metavar="W",
        help="of the children: one for all or one each; with linear the LLM has the rest of 1",
    )
    parser.add_argument(
        "--set",
        dest="parameters",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="parameters of the method, such as density=0.2",
    )
    parser.add_argument(
        "--keep", metavar="CHILD", help="the child whose tower, learners and files are kept"
    )
    parser.add_argument("--dtype", help="of the result (default: the LLM's for what is merged)")


def number(text: str) -> float:
    """A finite number, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number")
    return value
