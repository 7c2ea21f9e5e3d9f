"""The layers of peft that hold adapters, and how they are switched off, on and merged."""

from typing import TYPE_CHECKING

from torch import nn

from .contract import Contract

if TYPE_CHECKING:
    from peft.tuners.tuners_utils import BaseTunerLayer


def adapted_layers(model: nn.Module) -> list[tuple[str, "BaseTunerLayer"]]:
    """Every layer that peft put adapters beside, with its name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [(n, m) for n, m in model.named_modules() if isinstance(m, BaseTunerLayer)]


def enable_adapters(layer: "BaseTunerLayer", enable: bool) -> None:
    """Switches the adapters of a layer; off, their gradients go too."""
    layer.enable_adapters(enable)


def merge_into_base(layer: "BaseTunerLayer") -> nn.Module:
    """Adds what the adapters of a layer learned to the layer beside them, and returns that.

    The sum is made in float32 and kept in the layer's own type.
    """
    plain = layer.get_base_layer()
    weight = plain.get_parameter("weight")
    kept = weight.dtype
    weight.data = weight.data.float()
    layer.merge()
    # peft may have put another tensor in its place.
    weight = plain.get_parameter("weight")
    weight.data = weight.data.to(kept)
    return plain


def _check_adapters() -> None:
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    with torch.random.fork_rng(devices=[]):
        model = nn.Sequential(nn.Linear(4, 4))
        config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
        inject_adapter_in_model(config, model, "default")
    ((name, layer),) = adapted_layers(model)
    x = torch.ones(1, 4)
    with torch.no_grad():
        adapted = model(x)
        enable_adapters(layer, False)
        plain = model(x)
        enable_adapters(layer, True)
        base = merge_into_base(layer)
        merged = base(x)
    assert not torch.allclose(adapted, plain), "adapters cannot be switched off"
    assert torch.allclose(adapted, merged, atol=1e-5), "a merged layer computes something else"
    assert type(base) is nn.Linear and name == "0"
    marks = (".lora_A.", ".lora_B.")
    parameters = [name for name, _ in model.named_parameters()]
    assert sum(any(mark in name for mark in marks) for name in parameters) == 2, parameters


CONTRACTS = (
    Contract(
        "peft",
        "0.15",
        "a layer with adapters is a BaseTunerLayer with enable_adapters, get_base_layer and merge, "
        "and its weights have .lora_A. and .lora_B. in their names",
        (
            "peft.tuners.tuners_utils:BaseTunerLayer.enable_adapters(enabled)",
            "peft.tuners.tuners_utils:BaseTunerLayer.get_base_layer",
            "peft.tuners.tuners_utils:BaseTunerLayer.merge",
            "peft:inject_adapter_in_model(peft_config, model, adapter_name)",
        ),
        check=_check_adapters,
    ),
)
