"""Attention masses: how much of a model's attention falls on kinds of keys, without its matrices.

Works on any decoder that uses transformers' attention interface, alone, inside a vision-language
model or with wings.
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

from .definition import validate_attention
from .kinds import key_kinds
from .learner_masses import LearnerMasses

if TYPE_CHECKING:
    from peft import PeftModel

# Queries per call where there is a mask, so that no float copy of it is as tall as it is wide.
BLOCK = 256
# Names under which transformers finds the measured attention; the second for decoders with wings
# that hand their eager attention a mask to add.
NAME, ADDITIVE = "measured", "measured_additive"


@dataclass(frozen=True)
class Masses:
    """Shares of the attention of a batch of N rows, in L blocks.

    Attributes:
        layers: the blocks' numbers.
        main: `[N, L, 5]` float64, of the decoder's own attention: the weight, averaged over heads
            and over the row's tokens, on keys of each of `KINDS`. The five add up to 1, or to
            less where an attention has learned sinks or a prefix that stand for no token.
        learners: the same of the learners' attention, each times its gate; zero in blocks without
            learners, None for a model that has none.
        effect: `[N, L]`, the learners' output as a share of the main attention's (mean over tokens
            of the ratio of norms), None likewise.
    """

    layers: tuple[int, ...]
    main: Tensor
    learners: Tensor | None = None
    effect: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence["Masses"]) -> "Masses":
        """The rows of several batches of one model."""
        return cls(
            parts[0].layers,
            torch.cat([part.main for part in parts]),
            rows_of([part.learners for part in parts]),
            rows_of([part.effect for part in parts]),
        )


def rows_of(parts: Sequence[Tensor | None]) -> Tensor | None:
    """The rows of all parts; None for what the model does not have."""
    found = [part for part in parts if part is not None]
    return torch.cat(found) if found else None


@torch.no_grad()
def attention_masses(
    model: "PreTrainedModel | PeftModel", batch: Mapping[str, Tensor], is_image: Tensor
) -> Masses:
    """The masses of one batch, from one forward pass without a cache and without logits.

    Args:
        model: a causal LM or a vision-language model of transformers, a Wings model, or one of
            them within a `PeftModel`; what a learned prefix takes is of no kind.
        batch: what its forward takes; `input_ids` [B, T], `attention_mask` [B, T] or none.
        is_image: `[B, T]` bool, the tokens that stand for pictures.

    Raises:
        WingsError: a model whose attention cannot be measured, with the reason.
    """
    mask = batch.get("attention_mask")
    real = torch.ones_like(is_image) if mask is None else mask.bool()
    if is_image.shape != batch["input_ids"].shape or is_image.shape != real.shape:
        raise WingsError(
            f"is_image has shape {list(is_image.shape)}, but input_ids has "
            f"{list(batch['input_ids'].shape)} and attention_mask {list(real.shape)}: give one "
            f"value a token."
        )
    inner = inner_of(model)
    # A peft model puts its prefix in front of a whole pass; others spare the logits.
    run = model.base_model if inner is model else model
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with measured(inner, key_kinds(is_image, real), real) as recorder:
            run(**batch, use_cache=False)
    finally:
        for module, training in was_training.items():
            module.training = training
    return recorder.result()


def inner_of(model: "PreTrainedModel | PeftModel") -> PreTrainedModel:
    """The model that a `PeftModel` adapts, or the model itself."""
    inner = model if isinstance(model, PreTrainedModel) else model.get_base_model()
    assert isinstance(inner, PreTrainedModel)
    return inner


class Recorder:
    """What the attention of one decoder writes down in one pass.

    columns: `[B, T, 5]`, the kinds of the keys. real: `[B, T]` bool, tokens that are no padding.
    own: the decoder's own attention function where it is not ours to compute, else None.
    """

    def __init__(
        self, decoder: PreTrainedModel, columns: Tensor, real: Tensor, own: Callable | None
    ) -> None:
        self.decoder, self.columns, self.real, self.own = decoder, columns, real, own
        self.layer_of = {module: number for number, module in attentions_of(decoder).items()}
        self.found: list[tuple[int, Tensor]] = []
        self.learners: LearnerMasses | None = None

    def columns_of(self, keys: int, device: torch.device) -> Tensor:
        """`[B, S, 5]` for the `keys` keys of an attention; what a prefix adds is of no kind."""
        missing = keys - self.columns.shape[1]
        if missing < 0:
            raise WingsError(
                f"an attention of {type(self.decoder).__name__} sees {keys} keys of "
                f"{self.columns.shape[1]} tokens, so its attention cannot be told apart by token."
            )
        return nn.functional.pad(self.columns, (0, 0, missing, 0)).to(device)

    def mean(self, sums: Tensor) -> Tensor:
        """Mean over the tokens of each row: `[B, T, ...]` -> `[B, ...]` float64, on the CPU."""
        real = self.real.to(sums.device)
        weight = real.double() / real.sum(1, keepdim=True).clamp(min=1)
        # Padding may hold anything, NaN too.
        sums = sums.double().masked_fill(~real.view(*real.shape, *[1] * (sums.dim() - 2)), 0.0)
        return torch.einsum("bt,bt...->b...", weight, sums).cpu()

    def result(self) -> Masses:
        """All blocks in the order in which they ran.

        Raises:
            WingsError: a block whose attention was never asked.
        """
        missed = sorted(set(self.layer_of.values()) - {layer for layer, _ in self.found})
        if missed:
            raise WingsError(
                f"the blocks {missed} of {type(self.decoder).__name__} do not use transformers' "
                f"attention interface, so the model's attention shift cannot be measured."
            )
        layers = tuple(layer for layer, _ in self.found)
        main = torch.stack([masses for _, masses in self.found], dim=1)
        if self.learners is None:
            return Masses(layers, main)
        return Masses(layers, main, *self.learners.stacked(layers, main[:, 0]))


RECORDER: ContextVar[Recorder] = ContextVar("recorder of attention masses")


@contextmanager
def measured(model: PreTrainedModel, columns: Tensor, real: Tensor) -> Iterator[Recorder]:
    """Within it, passes of `model` write their masses into the recorder; after it all is as before.

    The decoder's configuration names the measured attention meanwhile, and hooks stand on the
    learners of a Wings model; nothing else changes, in this model or in another.
    """
    decoder = decoder_of(model)
    own, name = None, NAME
    if isinstance(model, WingsForCausalLM):
        own = registered_attention(decoder.config)
        name = ADDITIVE if attention_name(decoder.config) == "wings_eager" else NAME
    recorder = Recorder(decoder, columns, real, own)
    with ExitStack() as stack:
        for config in configs_of(decoder.config):
            stack.callback(name_attention, config, attention_name(config))
        token = RECORDER.set(recorder)
        stack.callback(RECORDER.reset, token)
        if isinstance(model, WingsForCausalLM) and model.config.learners:
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
    """The attention function of a decoder that is being measured.

    query `[B, H, T, d]`, key and value `[B, G, S, ...]`; the output `[B, T, H, e]` is the
    decoder's own, of a Wings model to the last bit.
    """
    recorder = RECORDER.get()
    if module not in recorder.layer_of:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if kwargs.get("position_bias") is not None:
        raise WingsError(
            f"{type(module).__name__} adds a bias to its attention scores, so the model's "
            f"attention shift cannot be measured."
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
    recorder.found.append((recorder.layer_of[module], recorder.mean(sums)))
    if recorder.own is not None:
        return recorder.own(module, query, key, value, attention_mask, **kwargs)
    validate_attention(module, (query, key, value), columns, mask, kwargs, (output, sums))
    return output, None


def routed_in_blocks(
    query: Tensor, key: Tensor, value: Tensor, columns: Tensor, rule: Rule
) -> tuple[Tensor, Tensor]:
    """`routed_attention`, under a mask a block of queries at a time."""
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
    """transformers' mask for SDPA, where None always means causal."""
    return sdpa_mask(**{**kwargs, "allow_is_bidirectional_skip": False})


def decoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """The module that holds the blocks of a language model.

    Raises:
        WingsError: an encoder-decoder, whose attention to a picture is of another kind.
    """
    if isinstance(model, WingsForCausalLM):
        return model.model.language_model
    if model.config.is_encoder_decoder:
        raise WingsError(
            f"{type(model).__name__} is an encoder-decoder, so a picture is not among the tokens "
            f"that its blocks attend to: the attention shift is that of a decoder."
        )
    decoder = model.get_decoder()
    if decoder is model:
        inner = [part for part in model.children() if isinstance(part, PreTrainedModel)]
        decoder = inner[0] if inner else model
    return decoder


def attentions_of(decoder: PreTrainedModel) -> dict[int, nn.Module]:
    """The self-attention of each block; the refusal of `find_attentions` in this file's words."""
    try:
        return find_attentions(decoder)
    except WingsError as error:
        raise WingsError(
            f"{type(decoder).__name__} does not tell transformers which class is its attention, or "
            f"has none, so the model's attention shift cannot be measured: choose a model that "
            f"uses transformers' attention interface."
        ) from error


def configs_of(config: PreTrainedConfig) -> list[PreTrainedConfig]:
    """A configuration and those within it, the outer after the inner.

    Callbacks run from the last to the first, and naming an attention for the outer names it for
    the inner ones.
    """
    within = [vars(config).get(name) for name in config.sub_configs]
    inner = [one for part in within if part is not None for one in configs_of(part)]
    return [*inner, config]


register_attention(NAME, measured_attention, measured_mask)
register_attention(ADDITIVE, measured_attention, eager_mask)
