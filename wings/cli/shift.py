"""`wings shift`: measures the attention shift of a checkpoint; writes a plot and JSON."""

import json
from pathlib import Path

import torch
from rich.progress import Progress
from rich.text import Text
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.utils import logging

from wings.config import WingsConfig
from wings.errors import WingsError
from wings.eval.attention.shift import ModelShift, ShiftOptions, measure_shift
from wings.eval.attention.shift_plot import curves_figure
from wings.eval.items import read_items
from wings.eval.models import on_device, validate_asked
from wings.eval.senses import names_in
from wings.model.causal_lm import WingsForCausalLM
from wings.model.load_causal_lm import load_causal_lm
from wings.model.load_composite import load_composite, load_composite_processor
from wings.output_folder import OutputFolder
from wings.processing.processor import WingsProcessor
from wings.saved_files import reading
from wings.upstream.auto_models import reads_images_and_text

from .terminal import make_console, make_table


def shift(checkpoint: str, items: Path, images: Path | None, output: Path, sink: str) -> ModelShift:
    """Prints a table, and writes `shift.json` and `shift.png` to a folder.

    Args:
        checkpoint: folder or Hub id of a Wings model, a vision-language model or a causal LM.
        items: records in any form that training reads; those with a picture or a sound are
            measured.
        images: folder that paths of pictures and sounds are relative to; None for the folder of
            `items`.
        output: the folder, created if missing.
        sink: see `ShiftOptions`.

    Raises:
        WingsError: invalid items or checkpoint, or a model that cannot be measured.
    """
    owned = OutputFolder(output, "wings shift")
    owned.validate()
    console = make_console()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    visible = [item for item in read_items(items, images) if names_in(item.messages)]
    if not visible:
        raise WingsError(
            f"No item of {items} has a picture or a sound to split its text; add items with one."
        )
    validate_asked(checkpoint, visible, "--items")
    with console.status(Text(f"loading {checkpoint}")):
        model, processor = load(checkpoint)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("attention", total=len(visible))
        result = measure_shift(
            model,
            processor,
            visible,
            ShiftOptions(sink=sink),
            on_batch=lambda count: progress.advance(task, count),
        )
    document = {"checkpoint": checkpoint, "items": str(items), **result.to_dict()}
    text = json.dumps(document, indent=1)
    name = Path(checkpoint).name
    with owned.locked():
        owned.clear()
        draft = owned.draft("result")
        (draft / "shift.json").write_text(text + "\n", encoding="utf-8")
        curves_figure(result, f"Attention over the blocks of {name}").savefig(
            draft / "shift.png", dpi=160
        )
        owned.place(draft)
    table = make_table("branch", "attention shift", "samples with a score", title=name)
    for row in result.table():
        table.add_row(*row)
    console.print(table)
    console.print(f"{output / 'shift.png'}, {output / 'shift.json'}")
    return result


def load(checkpoint: str) -> tuple[PreTrainedModel, ProcessorMixin | PreTrainedTokenizerBase]:
    """Loads a causal LM or vision-language model with its tokenizer or processor.

    Uses a GPU if there is one.

    Raises:
        WingsError: transformers cannot load it.
    """
    with reading(checkpoint, "model"):
        config = AutoConfig.from_pretrained(checkpoint)
        model: PreTrainedModel
        processor: ProcessorMixin | PreTrainedTokenizerBase
        if isinstance(config, WingsConfig):
            model = WingsForCausalLM.from_pretrained(checkpoint)
            processor = WingsProcessor.from_pretrained(checkpoint)
        elif reads_images_and_text(config.model_type):
            processor = load_composite_processor(checkpoint)
            model = load_composite(checkpoint)
        else:
            model = load_causal_lm(checkpoint)
            processor = AutoTokenizer.from_pretrained(checkpoint)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return on_device(model, device).eval(), processor
