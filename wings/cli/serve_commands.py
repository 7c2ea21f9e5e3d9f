"""Parsers of the commands that serve a checkpoint: serve and demo."""

import argparse

from .parsing import add_answer_length, add_command, lazy

DTYPES = ("auto", "float32", "bfloat16", "float16")


def add_demo(commands: argparse._SubParsersAction) -> None:
    """`wings demo`."""
    parser = add_command(
        commands,
        "demo",
        lazy("wings.serving.demo:demo"),
        ("demo",),
        "open a page to chat with a checkpoint, with and without its learners",
        "Serves a page with a chat about images, videos and sounds. A switch turns the learners off"
        " for the next answer, and a plot has the router's weight in each block for the last one.",
    )
    add_server(parser, 7860)
    add_answer_length(parser, 256)
    parser.add_argument(
        "--share", action="store_true", help="also open a public address, through Gradio's servers"
    )


def add_serve(commands: argparse._SubParsersAction) -> None:
    """`wings serve`."""
    parser = add_command(
        commands,
        "serve",
        lazy("wings.serving.serve:serve"),
        ("serve",),
        "answer requests of OpenAI's clients with a checkpoint, images and sounds included",
        "Serves one checkpoint at /v1/chat/completions and /v1/responses, with the handlers of"
        " transformers serve. Answers come whole or streamed.",
    )
    add_server(parser, 8000)
    parser.add_argument(
        "--name", help="of the model for clients (default: the folder's name, or the Hub id)"
    )


def add_server(parser: argparse.ArgumentParser, port: int) -> None:
    """Adds the checkpoint, its device and dtype, and the address."""
    parser.add_argument("checkpoint", help="folder or Hub id of a Wings checkpoint")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; 0.0.0.0 lets other machines in (default: 127.0.0.1)",
    )
    parser.add_argument(
        "--port", type=port_number, default=port, help=f"0 for any free one (default: {port})"
    )
    parser.add_argument(
        "--device", default="auto", help="such as cpu or cuda:1 (default: a GPU if there is one)"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default="auto", help="of the weights (default: as saved)"
    )


def port_number(text: str) -> int:
    """A whole number from 0 to 65535, for argparse."""
    if not (text.isascii() and text.isdigit() and int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"{text} is not a port, a whole number from 0 to 65535")
    return int(text)
