"""A model that is merged: its files, configuration and vocabulary."""

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig

import wings.config  # noqa: F401  (so that Auto classes know Wings)
from wings.errors import WingsError
from wings.saved_files import reading, validate_has_owner
from wings.sharing.local_paths import last_name
from wings.upstream.configuration import read_config_dict

from .tensor_store import TensorStore

DOWNLOADED = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.py")
TOKENIZER = "tokenizer.json"
# Keys of config.json for weights that are stored as whole numbers with scales.
QUANTISED = ("quantization_config", "compression_config")
# Dtypes that are merged.
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# The fields that must be the same in both language models, beside all shapes.
SHAPES = (
    "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act",
)  # fmt: skip
# Fields that change what weights compute; a difference is told.
TOLD = ("rms_norm_eps", "layer_norm_eps", "rope_parameters")


class Source:
    """A folder, or a model on the Hub, which is downloaded.

    Args:
        given: folder or Hub id, as the user named it.

    Raises:
        WingsError: none that can be read, no safetensors files, or a quantised model.
    """

    def __init__(self, given: str) -> None:
        self.given = given
        noun = "model"
        validate_has_owner(given, noun)
        with reading(given, noun):
            self.folder = Path(given).expanduser()
            if not self.folder.is_dir():
                self.folder = Path(snapshot_download(given, allow_patterns=list(DOWNLOADED)))
            if not (self.folder / "config.json").is_file():
                raise WingsError(
                    f"The folder '{given}' holds no model, as it has no config.json: name the"
                    f" folder of a saved model."
                )
            self.fields: dict[str, Any] = read_config_dict(self.folder)
            self.config: PreTrainedConfig = AutoConfig.from_pretrained(self.folder)
            self._validate_not_quantised()
            self.store = TensorStore(self.folder)

    def __repr__(self) -> str:
        return f"Source({self.given!r})"

    @property
    def shown_name(self) -> str:
        """The name that others may see: a Hub id, or a folder's own name."""
        return last_name(os.path.abspath(self.folder)) if Path(self.given).is_dir() else self.given

    @property
    def text_config(self) -> PreTrainedConfig:
        """The configuration of the language model."""
        return self.config.get_text_config(decoder=True)

    @property
    def is_wings(self) -> bool:
        """True for a Wings checkpoint."""
        return self.fields.get("model_type") == "wings"

    @property
    def learners(self) -> tuple[str, ...]:
        """The senses that a Wings checkpoint has learners for."""
        return tuple(self.config.learners) if self.is_wings else ()

    @property
    def ties_head(self) -> bool:
        """True where the configuration says that embeddings and output head are one."""
        tied = [getattr(one, "tie_word_embeddings", False) for one in self._configs]
        return any(tied)

    @property
    def _configs(self) -> tuple[PreTrainedConfig, PreTrainedConfig]:
        return self.config, self.text_config

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Ids of all tokens."""
        file = self.folder / TOKENIZER
        with reading(self.given, "tokenizer"):
            if file.is_file():
                # Auto classes add tokens of their own, which differ between kinds of models.
                return Tokenizer.from_file(str(file)).get_vocab()
            return AutoTokenizer.from_pretrained(self.folder).get_vocab()

    def _validate_not_quantised(self) -> None:
        inner = [value for value in self.fields.values() if isinstance(value, dict)]
        if any(key in fields for fields in (self.fields, *inner) for key in QUANTISED):
            raise WingsError(
                f"'{self.given}' is quantised, so its weights cannot be merged: name the model that"
                f" it was made from."
            )

    def validate_floats(self, name: str) -> None:
        """Raises a `WingsError` if a tensor is of no dtype that is merged."""
        stored = self.store[name]
        if stored.dtype not in FLOATS:
            raise WingsError(
                f"{name} of '{self.given}' has the dtype {stored.code}, as in a quantised model:"
                f" name a model in float32, float16 or bfloat16."
            )


def validate_same_architecture(base: Source, child: Source) -> list[str]:
    """Compares the configurations of two language models.

    Returns:
        Sentences about differences that do not prevent a merge.

    Raises:
        WingsError: another architecture.
    """
    one, two = base.text_config, child.text_config
    for name in SHAPES:
        values = getattr(one, name, None), getattr(two, name, None)
        # Some families lack a field, and derive it from others.
        if None not in values and values[0] != values[1]:
            raise WingsError(
                f"'{child.given}' has another architecture than '{base.given}': {name} is"
                f" {values[1]} and not {values[0]}; name the LLM that it was trained from."
            )
    told = []
    for name in TOLD:
        values = getattr(one, name, None), getattr(two, name, None)
        if values[0] != values[1]:
            told.append(f"{name} of {child.shown_name} is not the LLM's; it is kept.")
    return told
