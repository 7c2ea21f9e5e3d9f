"""Fingerprints of models and items: the keys of cached results, independent of paths."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from wings.errors import WingsError
from wings.processing.audio_reader import load_audio
from wings.processing.image_reader import load_image
from wings.processing.item_encoder import AUDIO
from wings.processing.processor import WingsProcessor
from wings.processing.video_parts import VIDEO
from wings.processing.web_file import is_address
from wings.sense import IMAGE

from .items import Item

# Samples per second at which sounds in memory are compared: no encoder takes more.
RATE = 48_000


def fingerprint(*parts: Any) -> str:
    """The digest of JSON values."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def model_fingerprint(
    model: PreTrainedModel, processor: ProcessorMixin | PreTrainedTokenizerBase
) -> str:
    """The digest of all weights, the configuration, the tokenizer and the items' processors.

    More training or another dtype changes it; another folder does not.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    tokenizer = tokenizer_of(processor)
    inputs = [tokenizer.get_vocab(), str(tokenizer.chat_template), _settings(model)]
    if isinstance(processor, WingsProcessor):
        senses = [sense.processor for name, sense in processor.senses.items() if name != IMAGE]
        for one in (processor.image_processor, *senses):
            inputs.append(str(sorted(one.to_dict().items())))
        if processor.video_sampling:
            inputs.append(str(sorted(processor.video_sampling.items())))
    elif isinstance(processor, ProcessorMixin):
        inputs.append(processor.to_json_string())
    return fingerprint(digest.hexdigest(), *inputs)


def item_fingerprint(item: Item) -> str:
    """The digest of an item's turns and the bytes of its pictures, sounds and videos.

    Raises:
        WingsError: a picture, sound or video that cannot be read.
    """
    return fingerprint([[*_turn(message)] for message in item.messages])


def tokenizer_of(processor: ProcessorMixin | PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer of a processor, or the tokenizer itself."""
    return processor.tokenizer if isinstance(processor, ProcessorMixin) else processor


def _settings(model: PreTrainedModel) -> str:
    """Model and generation configurations without folder names and versions."""
    lines = f"{model.config}\n{model.generation_config}".splitlines()
    volatile = ("_name_or_path", "transformers_version")
    return "\n".join(line for line in lines if not any(name in line for name in volatile))


def _turn(message: dict) -> Iterator[Any]:
    yield message["role"]
    yield _content(message["content"])
    if thoughts := message.get("reasoning_content"):
        yield thoughts


def _content(content: str | list[dict]) -> list:
    if isinstance(content, str):
        return [content]
    return [part["text"] if part["type"] == "text" else _source(part) for part in content]


def _source(part: dict) -> list:
    kind = part["type"]
    is_sound, source = kind == AUDIO, part[kind]
    noun = {AUDIO: "sound", VIDEO: "video"}.get(kind, "picture")
    if kind == VIDEO and isinstance(source, list):
        frames = [_source({"type": IMAGE, IMAGE: frame}) for frame in source]
        return [noun, *frames, part.get("fps"), part.get("max_frames")]
    if isinstance(source, str) and not is_address(source):
        try:
            data = Path(source).read_bytes()
        except OSError as error:
            raise WingsError(f"The {noun} {source} cannot be read: {error.strerror}.") from error
    elif kind == VIDEO:
        data = str(source).encode()
    elif is_sound:
        data = load_audio(source, RATE).tobytes()
    else:
        data = load_image(source).tobytes()
    options = [part.get("fps"), part.get("max_frames")] if kind == VIDEO else []
    return [noun, hashlib.blake2b(data, digest_size=16).hexdigest(), *options]
