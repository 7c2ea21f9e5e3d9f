"""Parsers of the commands that share a checkpoint: push and card."""

import argparse
from pathlib import Path

from .parsing import add_command, lazy


def add_push(commands: argparse._SubParsersAction) -> None:
    """`wings push`."""
    parser = add_command(
        commands,
        "push",
        lazy(".push:push"),
        (),
        "upload a checkpoint to the Hub with a filled-in model card; private by default",
        "Uploads a Wings checkpoint or a merged model to the Hub: model, processor, recipe, result"
        " and a model card that is filled in from them. Training state, logs and data stay, and"
        " local paths are taken out. An interrupted upload is resumed by the same command. The"
        " token is that of hf auth login or of HF_TOKEN.",
    )
    parser.add_argument("folder", type=Path, help="folder of a Wings checkpoint or of wings merge")
    parser.add_argument("name", help="owner/name on the Hub, or a name alone for your own")
    parser.add_argument(
        "--public", action="store_true", help="let everybody see it (default: private)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="list what would go up, with sizes; upload nothing"
    )
    parser.add_argument("--revision", default="main", help="branch to commit to (default: main)")
    parser.add_argument(
        "--message", default="Upload a Wings checkpoint", help="title of the commit"
    )
    parser.add_argument(
        "--include",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="further files, relative to the folder, such as 'assets/*.png'",
    )
    parser.add_argument("--card", type=Path, metavar="FILE", help="also write the card to a file")
    parser.add_argument(
        "--new-card", action="store_true", help="replace a card that somebody wrote or edited"
    )
    add_facts(parser)


def add_card(commands: argparse._SubParsersAction) -> None:
    """`wings card`."""
    parser = add_command(
        commands,
        "card",
        lazy(".push:card"),
        (),
        "print the model card that wings push would fill in",
        "Prints the model card of a checkpoint, filled in from its own files, from its recipes and"
        " from a report of wings eval. What none of them tells is said to be unknown.",
    )
    parser.add_argument("folder", type=Path, help="folder of a Wings checkpoint or of wings merge")
    parser.add_argument("--name", help="owner/name on the Hub (default: the folder's name)")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write the card, and its plot next to it"
    )
    add_facts(parser)


def add_facts(parser: argparse.ArgumentParser) -> None:
    """Adds the options that tell what a card shows."""
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FOLDER",
        help="folder of wings eval (default: the newest report of this checkpoint next to it or"
        " here)",
    )
    parser.add_argument(
        "--run",
        type=Path,
        metavar="FOLDER",
        help="folder of the training run, if the checkpoint is a copy of its model",
    )
    parser.add_argument("--license", metavar="ID", help="licence of the whole, such as apache-2.0")
    parser.add_argument("--base-model", metavar="ID", help="the language model's name on the Hub")
    parser.add_argument("--tower", metavar="ID", help="the vision tower's name on the Hub")
