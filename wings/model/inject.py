"""Finds the attention of a decoder, puts wings on it, and takes the language model out again."""

import copy

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from wings.config import WingsConfig
from wings.errors import WingsError
from wings.layers.subclasses import put_before
from wings.layers.wings_layer import IMPLEMENTATIONS, WingsAttentionMixin, WingsLayer
from wings.sense import IMAGE
from wings.upstream.attention import attention_classes, attention_name, block_index, name_attention
from wings.upstream.weights import no_init_weights

from .adapt import attach_adapters
from .logits import prefix_of


def build_causal_lm(text_config: PreTrainedConfig) -> PreTrainedModel:
    """Builds a causal LM with random weights, free to choose its attention implementation.

    Raises:
        WingsError: transformers has no causal LM for the configuration.
    """
    text_config_copy = copy.deepcopy(text_config)
    name_attention(text_config_copy, None)
    try:
        return AutoModelForCausalLM.from_config(text_config_copy)
    except ValueError as error:
        raise WingsError(
            f"transformers has no causal language model for model_type "
            f"'{text_config.model_type}': choose a decoder that AutoModelForCausalLM knows."
        ) from error


def split(causal_lm: PreTrainedModel) -> tuple[PreTrainedModel, nn.Module]:
    """Returns the bare decoder and the output head of a causal LM.

    Raises:
        WingsError: a decoder whose embeddings are of another width than its blocks.
    """
    decoder = causal_lm.get_decoder()
    if decoder is causal_lm:
        decoder = next(m for m in causal_lm.children() if isinstance(m, PreTrainedModel))
    head, embeddings = causal_lm.get_output_embeddings(), causal_lm.get_input_embeddings()
    width = causal_lm.config.hidden_size
    table = None if embeddings is None else embeddings.weight
    if head is None or not isinstance(table, Tensor) or table.shape[1] != width:
        raise WingsError(
            f"{type(causal_lm).__name__} has no plain embedding and output head of width {width}, "
            f"so image features cannot take the place of token embeddings in it."
        )
    return decoder, head


def add_wings(decoder: PreTrainedModel, config: WingsConfig) -> None:
    """Attaches learners, router and prefix to the attention of the chosen blocks, in place.

    Each attention module changes its class to a subclass made here and gains a child `wings`. No
    other key changes, and none of the decoder's code is copied or hooked.

    Raises:
        WingsError: an unsupported decoder, with the reason.
    """
    implementation = attention_name(decoder.config)
    if implementation not in IMPLEMENTATIONS:
        raise WingsError(
            f"{type(decoder).__name__} uses the attention implementation '{implementation}', but "
            f"Wings supports {sorted(IMPLEMENTATIONS)}: load the decoder with one of them."
        )
    name_attention(decoder.config, IMPLEMENTATIONS[implementation])
    attach_wings(decoder, config)


def attach_wings(decoder: PreTrainedModel, config: WingsConfig) -> None:
    """Gives every block the wings and adapters of `config`; parts that stay keep their weights.

    Raises:
        WingsError: a chosen block without attention, or no layer for an adapter.
    """
    has_wings = any(isinstance(module, WingsAttentionMixin) for module in decoder.modules())
    has_learners = any(sense.learners for sense in config.senses.values())
    if not (has_learners or config.prefix_length or config.lora is not None or has_wings):
        return
    attentions = find_attentions(decoder)
    if len(attentions) < decoder.config.num_hidden_layers:
        # A hybrid decoder: some of its blocks have no attention.
        for name in {*config.senses, IMAGE}:
            if config.fields_of(name)["learner_layers"] is None:
                config.change_sense(name, learner_layers=tuple(sorted(attentions)))
    for layer in {*config.layers_with_learners, *config.layers_with_prefix}:
        if layer not in attentions:
            raise WingsError(
                f"block {layer} of {type(decoder).__name__} has no attention for "
                f"wings: name blocks that have one ({sorted(attentions)}) in learner_layers."
            )
    attach_adapters(decoder, config, attentions)
    for layer, attention in attentions.items():
        if isinstance(attention, WingsAttentionMixin):
            old, new = attention.wings, WingsLayer(config, layer)
            # Wings without parameters have no device of their own: the decoder's is taken.
            like = next(old.parameters(), decoder)
            new.load_state_dict(old.state_dict(), strict=False)
            attention.wings = new.to(like.device, like.dtype).train(old.training)
        elif layer in config.layers_with_wings:
            new = WingsLayer(config, layer)
            attention.wings = new.to(decoder.device, decoder.dtype).train(decoder.training)
            attention.__class__ = put_before(WingsAttentionMixin, type(attention), "Wings")


def find_attentions(decoder: PreTrainedModel) -> dict[int, nn.Module]:
    """Returns the self-attention module of each block, by block index.

    It is the class that the decoder names to transformers for its `attentions` output.

    Raises:
        WingsError: a decoder that names none.
    """
    classes = attention_classes(decoder)
    if not classes:
        raise WingsError(
            f"{type(decoder).__name__} does not tell transformers which class is its attention "
            f"(an older style of modelling code), so wings cannot be attached: choose a decoder "
            f"that uses transformers' attention interface."
        )
    found = [module for module in decoder.modules() if isinstance(module, classes)]
    if not found:
        raise WingsError(
            f"{type(decoder).__name__} has no attention in any of its blocks, so wings cannot be "
            f"attached: choose a decoder with attention."
        )
    return {block_index(module): module for module in found}


def validate_adapted(decoder: PreTrainedModel, expected: set[int], adapted: set[int]) -> None:
    """Raises a `WingsError` if a pass did not reach the adapters of every block."""
    missing = sorted(expected - adapted)
    if missing:
        raise WingsError(
            f"The blocks {missing} of {type(decoder).__name__} did not get the keyword `wings`, so "
            f"their adapters would have no effect: train this decoder without lora.guard and gate."
        )


def validate_reached(decoder: PreTrainedModel, expected: set[int], reached: set[int]) -> None:
    """Raises a `WingsError` if a pass did not reach the wings of every block."""
    missing = sorted(expected - reached)
    if missing:
        raise WingsError(
            f"The blocks {missing} of {type(decoder).__name__} did not pass the keyword `wings` to "
            f"their attention, or do not use transformers' attention interface, so their wings "
            f"would have no effect: leave them out of learner_layers or choose another decoder."
        )


def extract_causal_lm(
    decoder: PreTrainedModel, head: nn.Module, config: WingsConfig
) -> PreTrainedModel:
    """Returns a copy of the language model alone, as the causal LM it came from."""
    text_config_copy = copy.deepcopy(config.text_config)
    name_attention(text_config_copy, None)
    with no_init_weights():
        causal_lm = AutoModelForCausalLM.from_config(text_config_copy, dtype=decoder.dtype)
    bare, empty_head = split(causal_lm)
    prefix, head_prefix = prefix_of(bare, causal_lm), prefix_of(empty_head, causal_lm)
    state = {
        f"{prefix}.{name}": tensor
        for name, tensor in decoder.state_dict().items()
        if ".wings." not in name
    }
    state |= {f"{head_prefix}.{name}": tensor for name, tensor in head.state_dict().items()}
    with torch.no_grad():
        causal_lm.load_state_dict(state)
    causal_lm.tie_weights()
    return causal_lm.eval()
