"""Loads a language model, and compares the tensors of a checkpoint with those of its model."""

import os
from collections.abc import Iterable
from typing import Any

from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
)

from wings.errors import WingsError
from wings.saved_files import reading
from wings.upstream.gguf import place_of

NAMED = 5
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


def load_causal_lm(
    source: str | os.PathLike,
    dtype: Any = "auto",
    revision: str | None = None,
    expected: str = "a Wings checkpoint or a causal language model",
) -> PreTrainedModel:
    """Loads a language model from a folder or, in a revision, from the Hub; or a GGUF file there.

    Args:
        source: folder or Hub id.
        dtype: of the weights.
        revision: on the Hub.
        expected: the models that the caller takes, for the message about another one.

    Raises:
        WingsError: none that can be read, or tensors that are missing (named).
    """
    place, file = place_of(source)
    with reading(place, "language model"):
        if not file:
            config = AutoConfig.from_pretrained(place, revision=revision or "main")
            # transformers itself would list all kinds that it knows, and import them for that.
            if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
                raise WingsError(
                    f"'{source}' holds a '{config.model_type}' model, which cannot be used here: "
                    f"name {expected}."
                )
        # Annotated as returning the model alone, which is true only without output_loading_info.
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            place,
            dtype=dtype,
            revision=revision or "main",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **file,
        )
        model, info = loaded
        # Tensors that nobody reads are the business of transformers, which knows some by name.
        validate_tensors(source, {**info, "unexpected_keys": ()})
    return model


def hub_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Picks the arguments that say how files are read from the Hub."""
    return {name: value for name, value in kwargs.items() if name in HUB_OPTIONS}


def validate_tensors(source: str | os.PathLike, info: dict[str, Any]) -> None:
    """Raises a `WingsError` that names missing and unexpected tensors."""
    faults = [
        ("lacks", info["missing_keys"]),
        (
            "has in another shape than config.json says:",
            [f"{name} ({list(a)}, not {list(b)})" for name, a, b in info["mismatched_keys"]],
        ),
        ("has tensors that the model has no parameter for:", info["unexpected_keys"]),
    ]
    for what, names in faults:
        if names:
            raise WingsError(
                f"The checkpoint '{source}' {what} {listed(names)}: it belongs to another model or "
                f"was not written whole, so save it again."
            )


def listed(names: Iterable[str]) -> str:
    """Lists the first few names, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - NAMED} more" if len(ordered) > NAMED else ""
    return ", ".join(ordered[:NAMED]) + more
