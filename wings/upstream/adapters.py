"""peft's layers with adapters: finds them, switches them and merges them."""

from typing import TYPE_CHECKING

from torch import nn

from .contract import Contract

if TYPE_CHECKING:
    from peft.tuners.tuners_utils import BaseTunerLayer


def adapted_layers(model: nn.Module) -> list[tuple[str, "BaseTunerLayer"]]:
    """Lists every layer with adapters of peft, with its name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [(n, m) for n, m in model.named_modules() if isinstance(m, BaseTunerLayer)]


def enable_adapters(layer: "BaseTunerLayer", enable: bool) -> None:
    """Switches the adapters of a layer on or off; off also disables their gradients."""
    layer.enable_adapters(enable)


def merge_into_base(layer: "BaseTunerLayer") -> nn.Module:
    """Merges the adapters of a layer into its base layer and returns that.

    The sum is computed in float32 and stored in the layer's own dtype.
    """
    plain = layer.get_base_layer()
    weight = plain.get_parameter("weight")
    kept = weight.dtype
    weight.data = weight.data.float()
    layer.merge()
    # peft may have replaced the tensor.
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
