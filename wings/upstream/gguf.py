"""GGUF files as language models: transformers reads one as a file of a folder."""

import importlib.util
import os
from pathlib import Path

from ..errors import WingsError
from .contract import Contract


def place_of(source: str | os.PathLike) -> tuple[str, dict[str, str]]:
    """Splits the name of a language model into a folder or Hub id, and keywords of transformers.

    Args:
        source: a folder or Hub id, which has no keywords; or either with `/FILE.gguf`.

    Raises:
        WingsError: there is no such file in the folder, or gguf is not installed.
    """
    text = os.fspath(source)
    if not text.lower().endswith(".gguf"):
        return text, {}
    folder, _, file = text.rpartition("/")
    if not folder and not text.startswith("/"):
        folder = "."
    if Path(folder).is_dir() and not Path(text).is_file():
        raise WingsError(
            f"There is no file '{text}' to read a language model from: check the path."
        )
    if importlib.util.find_spec("gguf") is None:
        raise WingsError(f"'{text}' needs gguf: python3 -m pip install 'wings-lorra[quant]'.")
    return folder, {"gguf_file": file}


CONTRACTS = (
    Contract(
        "transformers",
        "5.17",
        "configurations, tokenizers and models take gguf_file, the name of a file in the folder",
        (
            "transformers.modeling_gguf_pytorch_utils:load_gguf_checkpoint"
            "(gguf_checkpoint_path, return_tensors)",
        ),
    ),
)
