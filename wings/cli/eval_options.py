"""What the commands that measure take: `wings eval`, `compare`, `iit` and `shift`."""

import argparse
from pathlib import Path

from wings.extras import require


def add_eval(commands: argparse._SubParsersAction) -> None:
    """`wings eval`."""
    parser = commands.add_parser(
        "eval",
        help="what a checkpoint learned and forgot, against the LLM it grew from",
        description="Asks a checkpoint and the LLM it grew from the same questions and compares"
        " their next-token distributions; writes report.html and report.json. The same command"
        " goes on after a break; torchrun -m wings.cli eval ... spreads it over devices.",
    )
    parser.add_argument(
        "checkpoint", help="folder or Hub id of a Wings checkpoint, or of a plain language model"
    )
    parser.add_argument(
        "--against",
        metavar="LLM",
        help="folder or Hub id of the LLM that it grew from (default: the one inside a Wings"
        " checkpoint, if its recipes kept that frozen)",
    )
    for name, what in (
        ("text", "JSON Lines of chat messages without pictures; the last turn is the answer"),
        ("pictures", "the same with pictures, asked about them"),
        ("conversations", "the same with pictures, the last question about text"),
        ("held-out", "texts, or JSON Lines of texts or conversations, for the drift"),
    ):
        parser.add_argument(
            f"--{name}", type=Path, nargs="+", default=[], metavar="FILE", help=what
        )
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=[],
        metavar="NAME",
        help="tasks or groups of lm-evaluation-harness, and those that ship (wings_local, ...)",
    )
    parser.add_argument(
        "--include-path",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="task files that go before the harness's own, as wings.eval.harness.offline writes",
    )
    parser.add_argument(
        "--output", type=Path, help="folder of the report (default: wings-eval-NAME)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=64, help="conversations answered together (default: 64)"
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=32, help="where an answer is cut (default: 32)"
    )
    parser.set_defaults(run=run_eval, needs=("eval",))


def run_eval(arguments: argparse.Namespace) -> int:
    """Runs `wings eval`."""
    if arguments.tasks:
        require("harness")
    from wings.eval.data import Files

    from .eval import run

    run(
        arguments.checkpoint,
        arguments.against,
        Files(
            arguments.text,
            arguments.pictures,
            arguments.conversations,
            arguments.held_out,
            arguments.tasks,
            arguments.include_path,
        ),
        arguments.output,
        arguments.batch_size,
        arguments.max_new_tokens,
    )
    return 0


def add_iit(commands: argparse._SubParsersAction) -> None:
    """`wings iit`."""
    parser = commands.add_parser(
        "iit",
        help="build conversations in which text and pictures take turns, to be scored",
        description="Builds interleaved conversations (IIT) from a file of text questions and a"
        " file of questions about pictures: six kinds, of which the last turn is scored and those"
        " before it carry their answers. Writes text.jsonl and pictures.jsonl for wings eval.",
    )
    parser.add_argument(
        "text", type=Path, help="JSON Lines of chat messages without pictures, as wings eval takes"
    )
    parser.add_argument("pictures", type=Path, help="the same with pictures, asked about them")
    parser.add_argument(
        "--llm",
        required=True,
        help="folder or Hub id of the LLM before any picture; its token embeddings say which"
        " questions are alike",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of both files")
    parser.add_argument(
        "--size",
        type=int,
        metavar="N",
        help="conversations of each kind (default: as many as the smaller file has items)",
    )
    parser.add_argument(
        "--uses",
        type=int,
        default=4,
        metavar="N",
        help="how often a text question may stand before others of a kind (default: 4)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the items that are scored (default: 0)"
    )
    parser.set_defaults(run=run_iit, needs=("eval",))


def run_iit(arguments: argparse.Namespace) -> int:
    """Runs `wings iit`."""
    from .iit import iit

    iit(
        arguments.text,
        arguments.pictures,
        arguments.llm,
        arguments.output,
        arguments.size,
        arguments.uses,
        arguments.seed,
    )
    return 0


def add_shift(commands: argparse._SubParsersAction) -> None:
    """`wings shift`."""
    parser = commands.add_parser(
        "shift",
        help="whether a model looks at text before and after a picture alike, block by block",
        description="Measures the attention shift (LAWS) of a Wings model, a vision-language model"
        " or a language model on conversations with pictures, and writes shift.png and shift.json.",
    )
    parser.add_argument("checkpoint", help="folder or Hub name of a model")
    parser.add_argument(
        "--items", type=Path, required=True, help="JSON Lines of chat messages with pictures"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the result")
    parser.add_argument(
        "--sink",
        choices=("apart", "before"),
        default="apart",
        help="whether the first token is left out or counted with the text before (default: apart)",
    )
    parser.set_defaults(run=run_shift, needs=("eval",))


def run_shift(arguments: argparse.Namespace) -> int:
    """Runs `wings shift`."""
    from wings.eval.attention.shift import ShiftOptions

    from .shift import shift

    shift(
        arguments.checkpoint, arguments.items, arguments.output, ShiftOptions(sink=arguments.sink)
    )
    return 0


def add_compare(commands: argparse._SubParsersAction) -> None:
    """`wings compare`."""
    parser = commands.add_parser(
        "compare",
        help="reports of wings eval side by side, and the attention shift against the text score",
        description="Prints the scores of several reports that wings eval wrote, all against one"
        " LLM and with the same files, and draws the paper's plot over checkpoints: the attention"
        " shift (LAWS) against the text score.",
    )
    parser.add_argument("reports", type=Path, nargs="+", metavar="REPORT", help="their folders")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("wings-compare.png"),
        help="the plot (default: wings-compare.png)",
    )
    parser.set_defaults(run=run_compare, needs=("eval",))


def run_compare(arguments: argparse.Namespace) -> int:
    """Runs `wings compare`."""
    from .compare import compare

    compare(arguments.reports, arguments.output)
    return 0
