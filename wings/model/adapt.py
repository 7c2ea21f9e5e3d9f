"""Puts adapters on the linear layers of a decoder's blocks, and takes them off."""

from torch import nn
from transformers import PreTrainedModel

from wings.config import WingsConfig
from wings.errors import WingsError
from wings.layers.adapter import AdaptedBlockMixin, Adapter, AdapterMixin
from wings.layers.subclasses import put_before, take_off
from wings.lora_options import LoraOptions


def attach_adapters(
    decoder: PreTrainedModel, config: WingsConfig, attentions: dict[int, nn.Module]
) -> None:
    """Gives the linear layers of every block the adapters of `config.lora`, in place.

    Each layer changes its class to a subclass made here and gains a child `wings`; no other key
    changes. Adapters that stay keep their weights. `config.lora` gets every field.

    Args:
        decoder: the bare decoder.
        config: of the model.
        attentions: of the decoder's blocks, by block.

    Raises:
        WingsError: a target that no block has, or no linear layer at all.
    """
    options = config.adapters
    blocks = blocks_of(decoder, attentions)
    wanted = {} if options is None else chosen_layers(decoder, blocks, options)
    for module in decoder.modules():
        if isinstance(module, AdapterMixin) and module not in wanted:
            del module.wings
            take_off(module)
        elif isinstance(module, AdaptedBlockMixin) and options is None:
            take_off(module)
    if options is None:
        return
    layers = set()
    for module, layer in wanted.items():
        layers.add(layer)
        if isinstance(module, AdapterMixin):
            module.wings.scale = options.alpha / options.rank
            module.wings.dropout = options.dropout
            continue
        assert isinstance(module, nn.Linear), "only linear layers are chosen"
        linear: nn.Module = module
        adapter = Adapter(module.in_features, module.out_features, options)
        linear.wings = adapter.to(decoder.device, decoder.dtype).train(decoder.training)
        linear.__class__ = put_before(AdapterMixin, type(module), "Adapted")
    for layer in layers:
        block = blocks[layer]
        if not isinstance(block, AdaptedBlockMixin):
            block.adapter_layer = layer  # type: ignore[assignment]  # a new attribute
            block.__class__ = put_before(AdaptedBlockMixin, type(block), "")
    gated = sorted(attentions) if options.gate == "attended" else ()
    fields = {**options.to_dict(), "layers": sorted(layers), "gate_layers": list(gated)}
    config.lora = LoraOptions.of(fields).to_dict()


def blocks_of(decoder: PreTrainedModel, attentions: dict[int, nn.Module]) -> nn.ModuleList:
    """Returns the list of the decoder's blocks: the outermost that holds its attention."""
    one = next(iter(attentions.values()))
    for module in decoder.modules():
        if isinstance(module, nn.ModuleList) and any(one is part for part in module.modules()):
            return module
    raise WingsError(
        f"{type(decoder).__name__} keeps its blocks in no ModuleList, so adapters cannot find them:"
        f" train this decoder without lora.guard and gate."
    )


def chosen_layers(
    decoder: PreTrainedModel, blocks: nn.ModuleList, options: LoraOptions
) -> dict[nn.Module, int]:
    """Returns the linear layers that get an adapter, with the number of their block.

    Raises:
        WingsError: a target that no block has, or no linear layer at all.
    """
    found: dict[nn.Module, tuple[str, int]] = {}
    for number, block in enumerate(blocks):
        for name, module in block.named_modules():
            if isinstance(module, nn.Linear) and ".wings." not in f".{name}.":
                found[module] = (name, number)
    names = sorted({name.rpartition(".")[2] for name, _ in found.values()})
    if not found:
        raise WingsError(
            f"{type(decoder).__name__} has no linear layers in its blocks, so adapters have no "
            f"place: choose learners instead."
        )
    for target in options.targets or ():
        if not any(f".{name}".endswith(f".{target}") for name, _ in found.values()):
            raise WingsError(
                f"lora.targets: {type(decoder).__name__} has no linear layer {target!r}; it has "
                f"{', '.join(names)}."
            )
    return {
        module: number
        for module, (name, number) in found.items()
        if options.targets is None or any(f".{name}".endswith(f".{t}") for t in options.targets)
    }
