"""Parsers of the commands that use or measure a checkpoint."""

import argparse
from pathlib import Path

from .parsing import (
    add_answer_length,
    add_command,
    add_files,
    add_generation,
    add_images,
    amount,
    lazy,
    points,
    positive,
    seed,
)


def add_chat(commands: argparse._SubParsersAction) -> None:
    """`wings chat`."""
    parser = add_command(
        commands,
        "chat",
        lazy(".chat:chat"),
        (),
        "chat with a checkpoint in the terminal",
        "Chats with a saved checkpoint. /image FILE adds a picture to the next turn, /audio FILE a"
        " sound, /video FILE frames of a video, /new starts a new conversation and /quit exits.",
    )
    parser.add_argument(
        "checkpoint",
        help="folder or Hub id of a Wings checkpoint, or of a composite model of transformers",
    )
    parser.add_argument(
        "--image",
        dest="pictures",
        nargs="+",
        default=[],
        metavar="FILE",
        help="pictures of the first turn",
    )
    parser.add_argument(
        "--audio", dest="sounds", nargs="+", default=[], metavar="FILE",
        help="sounds of the first turn, for a checkpoint that hears",
    )  # fmt: skip
    parser.add_argument(
        "--video", dest="videos", nargs="+", default=[], metavar="FILE",
        help="videos of the first turn, for a checkpoint that sees",
    )  # fmt: skip
    add_answer_length(parser, 256)


def add_compare(commands: argparse._SubParsersAction) -> None:
    """`wings compare`."""
    parser = add_command(
        commands,
        "compare",
        lazy(".compare:compare"),
        ("eval",),
        "compare reports of wings eval, and plot attention shift against text accuracy",
        "Prints the scores of several reports of wings eval, which must use one LLM, and the same"
        " questions where they have the same kind. Plots the attention shift (LAWS) of the"
        " checkpoints against their accuracy on text, alone and after an image.",
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
        "checkpoint",
        help="folder or Hub id of a Wings checkpoint, of a composite model of transformers (LLaVA,"
        " Qwen2-VL, ...) or of a plain language model",
    )
    parser.add_argument(
        "--against",
        metavar="LLM",
        help="folder or Hub id of the LLM that it was built from (default: the one inside a Wings"
        " checkpoint, if its training kept that frozen)",
    )
    files = (
        ("text", "records without pictures and sounds, in any form that training reads (.json,"
         " .jsonl, .parquet, .tar, a folder or pattern); the last turn is the answer"),
        ("pictures", "the same with questions about pictures"),
        ("sounds", "the same with questions about sounds"),
        ("conversations", "the same with pictures or sounds and a last question about text"),
        ("held-out", "texts, or records of texts or conversations, to measure drift"),
    )  # fmt: skip
    add_files(parser, files)
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
    add_generation(parser)


def add_export(commands: argparse._SubParsersAction) -> None:
    """`wings export`."""
    parser = add_command(
        commands,
        "export",
        lazy(".export:export"),
        (),
        "let a checkpoint load where this package is not installed",
        "Adds a copy of this package's model code to a saved Wings checkpoint, or to a copy of it."
        " The folder then loads with trust_remote_code=True wherever torch, transformers and"
        " open_clip are installed. Where this package is installed too, its own code is used.",
    )
    parser.add_argument("checkpoint", type=Path, help="folder of a Wings checkpoint")
    parser.add_argument(
        "output", type=Path, nargs="?", help="a new folder (default: the code is added in place)"
    )
    parser.add_argument(
        "--learners-only",
        action="store_true",
        help="leave out the frozen language model, and a tower with a name; loading finds them by"
        " name and refuses others",
    )


def add_extract(commands: argparse._SubParsersAction) -> None:
    """`wings extract`."""
    parser = add_command(
        commands,
        "extract",
        lazy(".extract:extract"),
        (),
        "save the language model of a checkpoint alone, with its tokenizer",
        "Saves the language model of a Wings checkpoint, as trained, with its tokenizer"
        " and generation settings. AutoModelForCausalLM, AutoTokenizer and pipeline load the folder"
        " without this package.",
    )
    parser.add_argument("checkpoint", help="folder or Hub id of a Wings checkpoint")
    parser.add_argument("--output", type=Path, required=True, help="a new folder")


def add_gate(commands: argparse._SubParsersAction) -> None:
    """`wings gate`."""
    parser = add_command(
        commands,
        "gate",
        lazy(".gate:gate"),
        ("eval",),
        "put a gate on a finished checkpoint, which keeps text after an image; no training",
        "Puts the attended gate on a trained checkpoint at several gains (tanh) and thresholds tau"
        " (hill). Scores text after an image and pictures (or the same of sounds) for each, without"
        " a gate, and with learners off in text turns. Chooses the most text whose pictures are"
        " within --keep-pictures points of the ungated model. Nothing is trained. Writes gate.png,"
        " gate.csv and gate.json. Run the same command again to resume.",
    )
    parser.add_argument("checkpoint", help="folder or Hub id of a Wings checkpoint with learners")
    generated = "(default: generated drawings and questions)"
    files = (
        ("pictures", f"records with questions about pictures, not those of your test {generated}"),
        ("sounds", "the same about sounds, for a gate on the attention to sounds"),
        ("conversations", "the same with pictures, or sounds, and a last question about text "
         f"{generated}"),
    )  # fmt: skip
    add_files(parser, files)
    parser.add_argument(
        "--report", type=Path, help="folder of the curve (default: wings-gate-NAME)"
    )
    parser.add_argument(
        "--output", type=Path, help="a new folder for the checkpoint with the chosen gate"
    )
    parser.add_argument(
        "--keep-pictures", "--keep-sounds", dest="keep", type=points, default=2.0,
        metavar="POINTS",
        help="percentage points of pictures, or sounds, that the gate may cost (default: 2)",
    )  # fmt: skip
    for name, text in (("gains", "gains of tanh"), ("taus", "thresholds of hill")):
        parser.add_argument(
            f"--{name}", type=amount, nargs="+", default=[], metavar="X", help=f"{text} to try"
        )
    add_generation(parser)


def add_iit(commands: argparse._SubParsersAction) -> None:
    """`wings iit`."""
    parser = add_command(
        commands,
        "iit",
        lazy(".iit:iit"),
        ("eval",),
        "build conversations that interleave text and picture questions, for wings eval",
        "Builds interleaved conversations (IIT) of six kinds from a file of text questions and a"
        " file of picture questions, or of sound questions. The last turn is scored; the turns"
        " before it include their answers. Writes text.jsonl and pictures.jsonl (or sounds.jsonl)"
        " for wings eval.",
    )
    parser.add_argument(
        "text",
        type=Path,
        help="records without pictures and sounds, in any form that training reads",
    )
    parser.add_argument(
        "pictures", type=Path, help="the same with questions about pictures, or about sounds"
    )
    add_images(parser)
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


def add_shift(commands: argparse._SubParsersAction) -> None:
    """`wings shift`."""
    parser = add_command(
        commands,
        "shift",
        lazy(".shift:shift"),
        ("eval",),
        "measure if a model attends alike to text before and after a picture or a sound",
        "Measures the attention shift (LAWS) of a Wings model, a vision-language model or a"
        " language model on conversations with pictures or sounds. Writes shift.png and"
        " shift.json.",
    )
    parser.add_argument("checkpoint", help="folder or Hub id of a model")
    parser.add_argument(
        "--items",
        type=Path,
        required=True,
        help="records with pictures or sounds, in any form that training reads",
    )
    add_images(parser)
    parser.add_argument("--output", type=Path, required=True, help="folder of the result")
    parser.add_argument(
        "--sink",
        choices=("apart", "before"),
        default="apart",
        help="count the first token apart or with the text before the picture (default: apart)",
    )
