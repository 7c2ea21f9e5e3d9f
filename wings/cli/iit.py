"""`wings iit`: builds conversations that interleave the items of a text and a picture file."""

from collections import Counter
from functools import partial
from pathlib import Path

import torch
from rich.text import Text
from transformers.utils import logging

from wings.errors import WingsError
from wings.eval.iit import KINDS, build_iit, embed_texts, sense_of, write_iit
from wings.eval.items import read_items
from wings.eval.models import load_eval_model
from wings.eval.senses import SENSES
from wings.output_folder import OutputFolder

from .progress import ProgressBars
from .terminal import make_console, make_table

TEXT = "text.jsonl"
FILES = (TEXT, *(f"{sense.questions}.jsonl" for sense in SENSES.values()))


def iit(
    text: Path,
    pictures: Path,
    images: Path | None,
    llm: str,
    output: Path,
    size: int | None,
    uses: int,
    seed: int,
) -> Counter[str]:
    """Writes conversations that end in text to `text.jsonl`, the others to `pictures.jsonl`.

    Those with sounds go to `sounds.jsonl`.

    Args:
        text: records of items without a picture or a sound, in any form that training reads.
        pictures: the same with pictures, or with sounds.
        images: folder that paths of pictures and sounds are relative to; None for the folder of
            `pictures`.
        llm: folder or Hub id of the language model whose token embeddings match questions.
        output: folder of both files.
        size: conversations of each kind; None for the number of items of the smaller set.
        uses: how often a text item may precede scored items of a set.
        seed: draws the scored items and their order.

    Returns:
        The number of conversations of each kind.

    Raises:
        WingsError: an invalid file, model, folder or size.
    """
    owned = OutputFolder(output, "wings iit")
    validate_output_folder(owned)
    text_items, picture_items = read_items(text), read_items(pictures, images)
    sense = sense_of(picture_items)
    shown = f"{sense.questions}.jsonl"
    console = make_console()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with console.status(Text(f"loading {llm}")):
        model = load_eval_model(llm, torch.device("cpu"))
    with ProgressBars(console) as bars:
        embed = partial(embed_texts, model.model, model.tokenizer, progress=bars.update)
        built = build_iit(
            text_items, picture_items, embed, size=size, uses=uses, seed=seed, progress=bars.update
        )
    with owned.locked():
        owned.record(TEXT, shown)
        for name, letter in ((TEXT, "T"), (shown, "V")):
            write_iit([one for one in built if one.kind.endswith(letter)], owned.path / name)
    count = Counter(one.kind for one in built)
    table = make_table("kind", "turns", "conversations", "file")
    for kind in KINDS:
        turns = ", ".join({"T": "text", "V": sense.noun}[letter] for letter in kind.split(","))
        name = TEXT if kind.endswith("T") else shown
        table.add_row(kind, turns, f"{count[kind]:,}", name)
    console.print(table)
    console.print("Only the last turn is scored. To evaluate a checkpoint and its LLM, run", "")
    console.print(
        f"  wings eval CHECKPOINT --against {llm} --text {output / TEXT} "
        f"--{sense.questions} {output / shown}",
        soft_wrap=True,
    )  # fmt: skip
    return count


def validate_output_folder(owned: OutputFolder) -> None:
    """Raises a `WingsError` if the folder has such conversations or is not for them."""
    owned.validate()
    for name in FILES:
        if (owned.path / name).exists():
            raise WingsError(f"{owned.path / name} exists; name another folder with --output.")
