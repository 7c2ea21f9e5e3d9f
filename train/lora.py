"""Plain LoRA: peft adds adapters for training, which are merged at its end."""

import contextlib
import importlib.util
from collections.abc import Iterator

import torch
from torch import nn

from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.train.recipe_parts import Lora
from wings.upstream.adapters import adapted_layers, enable_adapters, merge_into_base

ADAPTER = "default"
# Layers without adapters: wings are trained in full.
NOT_THE_LLM = r"(.*\.)?wings\..*"


def add_adapters(model: WingsForCausalLM, lora: Lora) -> None:
    """Add fresh adapters to linear layers of the decoder, in place; they do not change logits yet.

    Raises:
        WingsError: peft is not installed, or no layer has a name in `lora.targets`.
    """
    if importlib.util.find_spec("peft") is None:
        raise WingsError("lora needs peft: python3 -m pip install 'wings-lorra[lora]'.")
    # Imported here, because peft is optional.
    from peft import LoraConfig, inject_adapter_in_model

    decoder = model.model.language_model
    # peft warns if nothing matches the exclusion.
    has_wings = bool(model.config.layers_with_wings)
    config = LoraConfig(
        r=lora.rank,
        # Declared as int; peft only divides it by the rank.
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=lora.targets or "all-linear",
        exclude_modules=NOT_THE_LLM if has_wings else None,
    )
    for name in lora.targets or ():
        if not any(f".{module}".endswith(f".{name}") for module in _linear_layers(decoder)):
            known = sorted({module.rpartition(".")[2] for module in _linear_layers(decoder)})
            raise WingsError(
                f"lora.targets: {type(decoder).__name__} has no linear layer {name!r};"
                f" it has {', '.join(known)}."
            )
    inject_adapter_in_model(config, decoder, ADAPTER)


def adapters(model: nn.Module) -> list[nn.Parameter]:
    """The weights of all adapters; empty without adapters."""
    marks = (".lora_A.", ".lora_B.")
    return [p for name, p in model.named_parameters() if any(mark in name for mark in marks)]


@contextlib.contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Disables all adapters inside the block."""
    adapted = adapted_layers(model)
    for _, layer in adapted:
        enable_adapters(layer, False)
    try:
        yield
    finally:
        # Restores requires_grad too, which peft switches off.
        for _, layer in adapted:
            enable_adapters(layer, True)


@torch.no_grad()
def merge_adapters(model: nn.Module) -> None:
    """Merge all adapters into their layers and remove them.

    The sum is computed in float32 and stored in the layer's dtype. The model then has the same
    tensors as one without adapters.
    """
    for name, adapted in adapted_layers(model):
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, merge_into_base(adapted))


def _linear_layers(decoder: nn.Module) -> list[str]:
    return [
        name
        for name, module in decoder.named_modules()
        if isinstance(module, nn.Linear) and ".wings." not in name
    ]
