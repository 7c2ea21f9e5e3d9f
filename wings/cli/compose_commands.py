"""The parser of `wings compose`."""

import argparse
from pathlib import Path

from wings.config_values import RULES

from .parsing import add_command, lazy


def add_compose(commands: argparse._SubParsersAction) -> None:
    """`wings compose`."""
    parser = add_command(
        commands,
        "compose",
        lazy(".compose:compose"),
        (),
        "put senses that were trained apart on one frozen LLM into one model; no training",
        "Attaches the encoders, projectors, learners and routers of Wings checkpoints to the"
        " language model that all of them were trained on. Text stays the LLM's, to the last bit,"
        " and rows with one sense those of its checkpoint.",
    )
    parser.add_argument("llm", help="folder or Hub id of the language model")
    parser.add_argument(
        "checkpoints", nargs="+", metavar="CHECKPOINT", help="folders or Hub ids, two or more"
    )
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument(
        "--rule",
        choices=RULES,
        default="sum",
        help="how senses share a token that can see items of several (default: sum)",
    )
