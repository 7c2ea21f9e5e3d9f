"""Attention masses: the share of a model's attention on each kind of keys.

Attention matrices are never materialised. Works on any decoder that uses transformers' attention
interface: alone, inside a vision-language model or with wings.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from wings.attention.routed_attention import Rule
from wings.errors import WingsError
from wings.layers.dispatch import routed_attention
from wings.model.causal_lm import WingsForCausalLM
from wings.model.inject import find_attentions
from wings.upstream.attention import (
    attention_name,
    eager_mask,
    name_attention,
    register_attention,
    registered_attention,
    sdpa_attention_forward,
    sdpa_mask,
)

from .eager_check import validate_attention
from .key_kinds import key_kinds
from .learner_masses import LearnerMasses

if TYPE_CHECKING:
    from peft import PeftModel

BLOCK = 256  # queries per call with a mask, to bound the size of its float copy
# Registered names of the measured attention; the second is for decoders with wings whose eager
# attention takes an additive mask.
NAME, ADDITIVE = "measured", "measured_additive"


@dataclass(frozen=True)
class Masses:
    """Attention shares of N conversations in L blocks.

    Attributes:
        layers: the blocks' numbers.
        main: `[N, L, 4 + S]` float64, the decoder's own attention weight on each of
            `key_kinds_of` S senses, averaged over heads and tokens. They sum to 1, or to less if
            the attention has learned sinks or a prefix.
        learners: the same of the learners' attention, times their gates; zero in blocks without
            learners, None for a model without learners.
        effect: `[N, L]`, the ratio of the norms of the learners' output and the main attention's,
            averaged over tokens; None likewise.
    """

    layers: tuple[int, ...]
    main: Tensor
    learners: Tensor | None = None
    effect: Tensor | None = None

    @classmethod
    def concat(cls, parts: Sequence["Masses"]) -> "Masses":
        """The conversations of several batches of one model."""

        def join(tensors: list[Tensor | None]) -> Tensor | None:
            given = [tensor for tensor in tensors if tensor is not None]
            return torch.cat(given) if given else None

        return cls(
            parts[0].layers,
            torch.cat([part.main for part in parts]),
            join([part.learners for part in parts]),
            join([part.effect for part in parts]),
        )


@torch.no_grad()
def attention_masses(
    model: "PreTrainedModel | PeftModel", batch: Mapping[str, Tensor], is_item: Tensor
) -> Masses:
    """The masses of one batch, from one forward pass without a cache and without logits.

    Args:
        model: a causal LM or a vision-language model of transformers, a Wings model, or one of
            them in a `PeftModel`; a learned prefix has no kind.
        batch: its forward's arguments: `input_ids` [B, T], optionally `attention_mask` [B, T].
        is_item: `[B, T]` bool, True at image tokens, or `[B, T, S]` for S senses.

    Raises:
        WingsError: a model whose attention cannot be measured, with the reason.
    """
    mask = batch.get("attention_mask")
    shape = batch["input_ids"].shape
    real = is_item.new_ones(shape) if mask is None else mask.bool()
    if is_item.shape[:2] != shape or real.shape != shape:
        raise WingsError(
            f"is_item has shape {list(is_item.shape)}, but input_ids has "
            f"{list(batch['input_ids'].shape)} and attention_mask {list(real.shape)}; give one "
            "value a token."
        )
    inner = inner_of(model)
    # A peft model prepends its prefix in its own forward; other models can skip the logits.
    run = model.base_model if inner is model else model
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with measured(inner, key_kinds(is_item, real), real) as recorder:
            run(**batch, use_cache=False)
    finally:
        for module, training in was_training.items():
            module.training = training
    return recorder.result()


def inner_of(model: "PreTrainedModel | PeftModel") -> PreTrainedModel:
    """The model inside a `PeftModel`, or the model itself."""
    inner = model if isinstance(model, PreTrainedModel) else model.get_base_model()
    assert isinstance(inner, PreTrainedModel)
    return inner


class Recorder:
    """Collects the masses of one decoder during one pass.

    Args:
        decoder: the module that holds the blocks.
        columns: `[B, T, C]`, the kinds of the keys.
        real: `[B, T]` bool, False at padding.
        original: a Wings decoder's own attention function, which computes its output; None for
            other decoders.
    """

    def __init__(
        self, decoder: PreTrainedModel, columns: Tensor, real: Tensor, original: Callable | None
    ) -> None:
        self.decoder, self.columns, self.real, self.original = decoder, columns, real, original
        self.layer_of = {module: number for number, module in attentions_of(decoder).items()}
        self.results: list[tuple[int, Tensor]] = []
        self.learners: LearnerMasses | None = None

    def columns_of(self, keys: int, device: torch.device) -> Tensor:
        """`[B, S, C]` for the `keys` keys of an attention; the keys of a prefix have no kind."""
        missing = keys - self.columns.shape[1]
        if missing < 0:
            raise WingsError(
                f"An attention of {type(self.decoder).__name__} has {keys} keys for "
                f"{self.columns.shape[1]} tokens, so its keys cannot be assigned to tokens."
            )
        return nn.functional.pad(self.columns, (0, 0, missing, 0)).to(device)

    def mean(self, sums: Tensor) -> Tensor:
        """Mean over the tokens of each row: `[B, T, ...]` -> `[B, ...]` float64, on the CPU."""
        real = self.real.to(sums.device)
        weight = real.double() / real.sum(1, keepdim=True).clamp(min=1)
        # Values at padding may be NaN.
        sums = sums.double().masked_fill(~real.view(*real.shape, *[1] * (sums.dim() - 2)), 0.0)
        return torch.einsum("bt,bt...->b...", weight, sums).cpu()

    def result(self) -> Masses:
        """The masses of all blocks, in the order in which they ran.

        Raises:
            WingsError: a block that did not call the attention function.
        """
        missed = sorted(set(self.layer_of.values()) - {layer for layer, _ in self.results})
        if missed:
            raise WingsError(
                f"The blocks {missed} of {type(self.decoder).__name__} do not use transformers' "
                "attention interface, so the model's attention shift cannot be measured."
            )
        layers = tuple(layer for layer, _ in self.results)
        main = torch.stack([masses for _, masses in self.results], dim=1)
        if self.learners is None:
            return Masses(layers, main)
        return Masses(layers, main, *self.learners.stacked(layers, main[:, 0]))


RECORDER: ContextVar[Recorder] = ContextVar("recorder of attention masses")


@contextmanager
def measured(model: PreTrainedModel, columns: Tensor, real: Tensor) -> Iterator[Recorder]:
    """Records the masses of all passes of `model` in its block; restores everything at its end.

    Sets the attention name in the decoder's configuration and adds hooks to the learners of a Wings
    model. Other models are not affected.
    """
    decoder = decoder_of(model)
    original, name = None, NAME
    if isinstance(model, WingsForCausalLM):
        original = registered_attention(decoder.config)
        name = ADDITIVE if attention_name(decoder.config) == "wings_eager" else NAME
    recorder = Recorder(decoder, columns, real, original)
    with ExitStack() as stack:
        for config in configs_of(decoder.config):
            stack.callback(name_attention, config, attention_name(config))
        token = RECORDER.set(recorder)
        stack.callback(RECORDER.reset, token)
        if isinstance(model, WingsForCausalLM) and model.config.layers_with_learners:
            recorder.learners = LearnerMasses(recorder.columns, recorder.real, recorder.mean)
            stack.enter_context(recorder.learners.watching(decoder))
        name_attention(decoder.config, name)
        yield recorder


def measured_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, Any]:
    """The registered attention function: computes the output and records the masses.

    query `[B, H, T, d]`, key and value `[B, G, S, ...]`; returns `[B, T, H, e]`. A Wings model's
    output comes from its own attention function and is bitwise equal.
    """
    recorder = RECORDER.get()
    if module not in recorder.layer_of:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if kwargs.get("position_bias") is not None:
        raise WingsError(
            f"{type(module).__name__} adds a bias to its attention scores, so the model's "
            "attention shift cannot be measured."
        )
    mask = attention_mask
    if mask is not None:
        mask = (mask if mask.dtype == torch.bool else mask == 0)[..., : key.shape[2]]
    scaling = kwargs.get("scaling")
    rule = Rule(
        mask,
        query.shape[-1] ** -0.5 if scaling is None else scaling,
        kwargs.get("softcap"),
        kwargs.get("s_aux"),
    )
    columns = recorder.columns_of(key.shape[2], key.device)
    output, sums = routed_in_blocks(query, key, value, columns, rule)
    recorder.results.append((recorder.layer_of[module], recorder.mean(sums)))
    if recorder.original is not None:
        return recorder.original(module, query, key, value, attention_mask, **kwargs)
    validate_attention(module, (query, key, value), columns, mask, kwargs, (output, sums))
    return output, None


def routed_in_blocks(
    query: Tensor, key: Tensor, value: Tensor, columns: Tensor, rule: Rule
) -> tuple[Tensor, Tensor]:
    """`routed_attention`; with a mask, a block of queries at a time."""
    if rule.mask is None:
        return routed_attention(query, key, value, columns, rule)
    parts = [
        routed_attention(
            part, key, value, columns, replace(rule, mask=rule.mask[:, :, start : start + BLOCK])
        )
        for start, part in zip(
            range(0, query.shape[2], BLOCK), query.split(BLOCK, dim=2), strict=True
        )
    ]
    outputs, sums = zip(*parts, strict=True)
    return torch.cat(outputs, dim=1), torch.cat(sums, dim=1)


def measured_mask(**kwargs: Any) -> Tensor | None:
    """transformers' SDPA mask without the bidirectional shortcut, so that None means causal."""
    return sdpa_mask(**{**kwargs, "allow_is_bidirectional_skip": False})


def decoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """The module that holds the blocks of a language model.

    Raises:
        WingsError: an encoder-decoder model.
    """
    if isinstance(model, WingsForCausalLM):
        return model.model.language_model
    if model.config.is_encoder_decoder:
        raise WingsError(
            f"{type(model).__name__} is an encoder-decoder, whose decoder has no image tokens; the "
            "attention shift is defined for decoder-only models."
        )
    decoder = model.get_decoder()
    if decoder is model:
        inner = [part for part in model.children() if isinstance(part, PreTrainedModel)]
        decoder = inner[0] if inner else model
    return decoder


def attentions_of(decoder: PreTrainedModel) -> dict[int, nn.Module]:
    """The self-attention of each block, by number."""
    try:
        return find_attentions(decoder)
    except WingsError as error:
        raise WingsError(
            f"{type(decoder).__name__} declares no attention class to transformers, or has no "
            "attention, so its attention shift cannot be measured; choose a model that uses "
            "transformers' attention interface."
        ) from error


def configs_of(config: PreTrainedConfig) -> list[PreTrainedConfig]:
    """A configuration and its sub-configurations, the outer one last.

    `ExitStack` restores in reverse order, and setting the outer attention name also sets the inner
    ones, so the outer must be restored first.
    """
    within = [vars(config).get(name) for name in config.sub_configs]
    inner = [one for part in within if part is not None for one in configs_of(part)]
    return [*inner, config]


register_attention(NAME, measured_attention, measured_mask)
register_attention(ADDITIVE, measured_attention, eager_mask)
