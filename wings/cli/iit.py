"""`wings iit`: conversations in which text and pictures take turns, of two files of items."""

from collections import Counter
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from wings.errors import WingsError
from wings.eval.iit import KINDS, build_iit, write_iit
from wings.eval.items import read_items
from wings.eval.models import load_eval_model
from wings.eval.scoring.embeddings import embed_texts

from .progress import ProgressBars

TEXT, PICTURES = "text.jsonl", "pictures.jsonl"
TURNS = {"T": "text", "V": "picture"}


def iit(
    text: Path, pictures: Path, llm: str, output: Path, size: int | None, uses: int, seed: int
) -> Counter[str]:
    """Builds, and writes those that end in text into `text.jsonl`, the others into
    `pictures.jsonl`.

    Args:
        text: JSON Lines of items without a picture.
        pictures: JSON Lines of items with one.
        llm: folder or Hub id of the language model whose token embeddings say which questions are
            alike.
        output: folder of both files.
        size: conversations of each kind; None for as many as the smaller set has items.
        uses: how often a text item may be chosen to stand before scored ones of a set.
        seed: which items are scored, and in which order they choose.

    Returns:
        How many conversations there are of each kind.

    Raises:
        WingsError: a file, a model, a folder or a size that cannot be used.
    """
    validate_output_folder(output)
    text_items, picture_items = read_items(text), read_items(pictures)
    if uses < 1:
        raise WingsError(f"--uses is {uses}, but must be at least 1")
    console = Console(highlight=False)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with console.status(f"loading {llm}"):
        subject = load_eval_model(llm, torch.device("cpu"))
    with ProgressBars(console) as bars:
        embed = partial(embed_texts, subject.model, subject.tokenizer, progress=bars.update)
        built = build_iit(
            text_items, picture_items, embed, size=size, uses=uses, seed=seed, progress=bars.update
        )
    for name, letter in ((TEXT, "T"), (PICTURES, "V")):
        write_iit([one for one in built if one.kind.endswith(letter)], output / name)
    count = Counter(one.kind for one in built)
    table = Table("kind", "what its turns ask", "conversations", "in")
    for kind in KINDS:
        turns = ", ".join(TURNS[letter] for letter in kind.split(","))
        name = TEXT if kind.endswith("T") else PICTURES
        table.add_row(kind, turns, f"{count[kind]:,}", name)
    console.print(table)
    console.print("Only the last turn is scored. Ask a model and the LLM it grew from with", "")
    console.print(
        f"  wings eval CHECKPOINT --against {llm} --text {output / TEXT} "
        f"--pictures {output / PICTURES}",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    return count


def validate_output_folder(output: Path) -> None:
    """Raises a `WingsError` where the folder is none or holds such conversations already."""
    if output.exists() and not output.is_dir():
        raise WingsError(f"--output {output} is a file; name a folder")
    for name in (TEXT, PICTURES):
        if (output / name).exists():
            raise WingsError(f"{output / name} is there already; name another folder with --output")
