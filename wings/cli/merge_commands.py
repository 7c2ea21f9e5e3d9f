"""The parser of `wings merge`."""

import argparse
from pathlib import Path

from .parsing import add_command, lazy, points, positive


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
    parser.add_argument(
        "--output", type=Path, required=True, help="a new folder; a sweep goes on in its own"
    )
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
    add_sweep(parser)


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """The options of `--sweep`."""
    group = parser.add_argument_group("a sweep, which writes a front instead of a model")
    group.add_argument(
        "--sweep",
        metavar="VALUES",
        help="measure the merge at these values of its weight, such as 0,.1,...,1, or of another"
        " parameter, such as density=.1,.2; a value multiplies what is given for the parameter",
    )
    for name, text in (
        ("text", "records with questions about text (default: all are generated)"),
        ("pictures", "records with questions about pictures"),
        ("conversations", "records with pictures and a last question about text"),
    ):
        group.add_argument(f"--{name}", type=Path, nargs="+", metavar="FILE", help=text)
    group.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="folder that paths of pictures are relative to (default: the folder of each file)",
    )
    group.add_argument(
        "--beside",
        nargs="+",
        metavar="MODEL",
        help="further models to measure, such as a gentler fine-tune; folders or Hub ids",
    )
    group.add_argument(
        "--keep-pictures",
        type=points,
        metavar="POINTS",
        help="the most points of pictures that the chosen value may cost (default: 2)",
    )
    group.add_argument("--batch-size", type=positive, help="conversations per batch (default: 64)")
    group.add_argument(
        "--max-new-tokens", type=positive, help="longest answer, in tokens (default: 32)"
    )


def number(text: str) -> float:
    """A finite number, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number")
    return value
