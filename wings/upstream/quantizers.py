"""Quantised weights: parts that stay as they are, quantisers handed over, weights before saving."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers import AutoQuantizationConfig
from transformers.quantizers.quantizers_utils import should_convert_module

from ..errors import WingsError
from .contract import Contract

# Modules in full precision: the output head, as transformers keeps it, and those of the senses.
HEAD, TOWER = ["lm_head"], ["model.vision_tower", "model[.][a-z0-9]+_encoder"]
ADDED = ["model.projector", "model[.][a-z0-9]+_projector", ".*[.]wings"]
# Where a quantiser reads the modules that it skips.
_FIELDS = ("llm_int8_skip_modules", "modules_to_not_convert")
# What a loaded model with quantised weights has besides them.
_MARKS = (
    "hf_quantizer", "is_quantized", "quantization_method", "is_loaded_in_8bit", "is_loaded_in_4bit",
    "is_8bit_serializable", "is_4bit_serializable",
)  # fmt: skip


def with_kept_parts(quantization_config: Any, also: Iterable[str] = ()) -> Any:
    """A copy of a configuration that leaves learners, routers and the projector unquantised.

    The vision tower and the output head stay as they are too, unless the configuration has a list
    of its own.

    Args:
        quantization_config: of transformers, or its fields as a dict.
        also: names of other modules that stay as they are.
    """
    if isinstance(quantization_config, dict):
        quantization_config = AutoQuantizationConfig.from_dict(dict(quantization_config))
    changed = copy.deepcopy(quantization_config)
    for field in _FIELDS:
        if hasattr(changed, field):
            own = getattr(changed, field)
            kept = [*(HEAD + TOWER if own is None else own), *ADDED, *also]
            setattr(changed, field, list(dict.fromkeys(kept)))
    return changed


def is_quantized(model: PreTrainedModel) -> bool:
    """True if weights of the model are quantised."""
    return getattr(model, "hf_quantizer", None) is not None


def is_plain(weight: torch.Tensor) -> bool:
    """True for ordinary floating point numbers, which quantised weights are not."""
    return type(weight.data) is torch.Tensor and weight.is_floating_point()


def forget_gguf(model: PreTrainedModel) -> None:
    """Removes the mark of a GGUF file from a model that was loaded from one, in place.

    Its weights are ordinary tensors then, but transformers would refuse to save them.
    """
    config: Any = getattr(model.config, "quantization_config", None)
    if config is None:
        return
    fields = config if isinstance(config, dict) else config.to_dict()
    if fields.get("quant_method") == "gguf":
        del model.config.quantization_config
        for mark in _MARKS:
            vars(model).pop(mark, None)


def take_quantizer(model: PreTrainedModel, part: PreTrainedModel, prefix: str) -> None:
    """Hands the quantiser of a loaded part to the model around it, so that the model can be saved.

    Args:
        model: holds the part; changed in place.
        part: a model that may be quantised.
        prefix: name of the part's decoder in the model, with a final dot.
    """
    quantizer = getattr(part, "hf_quantizer", None)
    if quantizer is None:
        return
    for mark in _MARKS:
        if hasattr(part, mark):
            setattr(model, mark, getattr(part, mark))
    config: Any = copy.copy(quantizer.quantization_config)
    for field in _FIELDS:
        if hasattr(config, field):
            # Its names are those of the part.
            setattr(config, field, None)
    taken: Any = copy.copy(quantizer)
    taken.quantization_config = with_kept_parts(config, _plain_layers(model, prefix))
    model.hf_quantizer = taken
    model.config.quantization_config = taken.quantization_config


def _plain_layers(model: nn.Module, prefix: str) -> list[str]:
    """Linear layers within a part that are not quantised, but for the parts that never are."""
    return [
        name
        for name, module in model.named_modules()
        if type(module) is nn.Linear
        and is_plain(module.weight)
        and name.startswith(prefix)
        and should_convert_module(name, ADDED)
    ]


def prepare_saving(model: PreTrainedModel) -> None:
    """Puts quantised weights into the form that files have.

    Raises:
        WingsError: the quantiser cannot save.
    """
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is None:
        return
    if not quantizer.is_serializable():
        method = quantizer.quantization_config.quant_method
        raise WingsError(
            f"Weights quantised with {getattr(method, 'value', method)} cannot be saved: save the "
            f"model without quantization_config, and give that when it is loaded."
        )
    for module in model.modules():
        weight = getattr(module, "weight", None)
        state = getattr(weight, "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False):
            _unpack(weight)


def _unpack(weight: Any) -> None:
    """Undoes the layout of bitsandbytes' 4-bit kernel for CPUs.

    bitsandbytes 0.50 does so too when it saves, but leaves the scales of blocks transposed.
    """
    from bitsandbytes.functional import _convert_weight_packed_for_cpu_inverse

    weight.data, state = _convert_weight_packed_for_cpu_inverse(weight.data, weight.quant_state)
    if state.absmax.ndim == 2:
        state.absmax = state.absmax.T.reshape(-1).float()
    weight.quant_state = state


def _check_patterns() -> None:
    block = "model.language_model.layers.0.self_attn"
    kept = HEAD + TOWER + ADDED
    skipped = ("lm_head", "model.vision_tower.visual.proj", f"{block}.wings.router.first")
    for name in (*skipped, "model.projector.first"):
        assert not should_convert_module(name, kept), f"{name} would be quantised"
    assert should_convert_module(f"{block}.q_proj", kept), "nothing would be quantised"


CONTRACTS = (
    Contract(
        "transformers",
        "5.17",
        "a quantiser skips modules whose names its configuration lists in llm_int8_skip_modules or "
        "modules_to_not_convert, as patterns from the start of a name",
        (
            "transformers.quantizers.quantizers_utils:should_convert_module(full_name, patterns)",
            "transformers.quantizers:AutoQuantizationConfig.from_dict",
        ),
        check=_check_patterns,
    ),
    Contract(
        "transformers",
        "5.17",
        "a model with quantised weights has their quantiser as hf_quantizer, which says in "
        "is_serializable() whether they can be saved",
        (
            "transformers.modeling_utils:PreTrainedModel.save_pretrained",
            "transformers.quantizers:HfQuantizer.is_serializable",
        ),
    ),
)
