"""Fingerprints: by what a kept answer is known again, whatever folder its model lies in."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from wings.errors import WingsError
from wings.processing.image_processor import load_image

from .items import Item


def fingerprint(*parts: Any) -> str:
    """The digest of anything that JSON can hold."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def model_fingerprint(
    model: PreTrainedModel, processor: ProcessorMixin | PreTrainedTokenizerBase
) -> str:
    """The digest of every weight and of all that stands between a conversation and the model.

    Weights are read as they are, so a checkpoint that was trained on, or saved in another type, is
    another model; one that was moved is the same.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    tokenizer = tokenizer_of(processor)
    said = [tokenizer.get_vocab(), str(tokenizer.chat_template), _settings(model)]
    if isinstance(processor, ProcessorMixin):
        said.append(str(sorted(processor.image_processor.to_dict().items())))
    return fingerprint(digest.hexdigest(), *said)


def item_fingerprint(item: Item) -> str:
    """The digest of what an item shows a model: its turns, and the bytes of its pictures.

    Raises:
        WingsError: a picture that is not there.
    """
    return fingerprint([[m["role"], _content(m["content"])] for m in item.messages])


def tokenizer_of(processor: ProcessorMixin | PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer of a processor, or the tokenizer itself."""
    return processor.tokenizer if isinstance(processor, ProcessorMixin) else processor


def _settings(model: PreTrainedModel) -> str:
    """The configuration without names of folders; generation's too, which may hold penalties."""
    lines = f"{model.config}\n{model.generation_config}".splitlines()
    volatile = ("_name_or_path", "transformers_version")
    return "\n".join(line for line in lines if not any(name in line for name in volatile))


def _content(content: str | list[dict]) -> list:
    if isinstance(content, str):
        return [content]
    return [part["text"] if part["type"] == "text" else _picture(part) for part in content]


def _picture(part: dict) -> list[str]:
    source = part["image"]
    if isinstance(source, str) and not source.startswith(("http://", "https://", "data:")):
        try:
            held = Path(source).read_bytes()
        except OSError as error:
            raise WingsError(f"the picture {source} cannot be read: {error.strerror}") from error
    else:
        held = load_image(source).tobytes()
    return ["picture", hashlib.blake2b(held, digest_size=16).hexdigest()]
