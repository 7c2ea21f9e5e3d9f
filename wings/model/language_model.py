"""Saves the language model of a Wings model as a checkpoint of its own, with its tokenizer."""

import json
import os
from pathlib import Path

import torch
from transformers import PreTrainedModel

from wings.output_folder import make_readable
from wings.processing.processor import WingsProcessor

from .causal_lm import WingsForCausalLM

TOKENIZER_CONFIG = "tokenizer_config.json"


def save_language_model(
    model: WingsForCausalLM,
    processor: WingsProcessor,
    folder: str | os.PathLike,
    dtype: torch.dtype | None = None,
) -> PreTrainedModel:
    """Save the language model with its tokenizer and its generation settings.

    `AutoModelForCausalLM`, `AutoTokenizer` and `pipeline` load the folder without this package.

    Args:
        model: the Wings model, which stays as it is.
        processor: of the model.
        folder: an existing or new folder.
        dtype: of the saved weights, where every weight is exact in it; default: as in the model.

    Returns:
        The language model.
    """
    language_model = model.extract_language_model()
    if dtype is not None and _fits(language_model, dtype):
        language_model.to(dtype)  # type: ignore[arg-type]
    language_model.save_pretrained(folder)
    make_readable(Path(folder).glob("*.safetensors"))
    processor.extract_tokenizer(language_model.config.vocab_size).save_pretrained(folder)
    # Otherwise other programs would look for our processor.
    path = Path(folder) / TOKENIZER_CONFIG
    fields = json.loads(path.read_text(encoding="utf-8"))
    fields.pop("processor_class", None)
    path.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return language_model


def _fits(model: PreTrainedModel, dtype: torch.dtype) -> bool:
    return all(torch.equal(p.to(dtype).to(p.dtype), p) for p in model.parameters())
