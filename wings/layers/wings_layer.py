"""`WingsLayer`: learners, routers and prefix of one block, next to the main attention."""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wings.attention.rotary import count_heads
from wings.attention.routed_attention import Rule, attention_weights, causal_mask
from wings.attention.routed_attention import routed_attention as routed_attention_in_torch
from wings.config import WingsConfig
from wings.errors import WingsError
from wings.saved_code import SUFFIX
from wings.upstream.attention import (
    AttentionFunction,
    eager_attention_of,
    eager_mask,
    register_attention,
    sdpa_attention_forward,
    sdpa_mask,
)

from .adapter import gate_block
from .cross_attention import CrossAttentionLearner
from .dispatch import routed_attention
from .lorra import LoRRALearner
from .prefix import Prefix
from .router import AttendedRouter, ModalityRouter, PositionRouter
from .wings_pass import LearnerInputs, WingsPass

Learner = LoRRALearner | CrossAttentionLearner

# Names under which transformers finds our attention, by the implementation the decoder would use
# on its own.
IMPLEMENTATIONS = {"sdpa": f"wings{SUFFIX}", "eager": f"wings_eager{SUFFIX}"}
OWN: dict[str | None, str] = {ours: own for own, ours in IMPLEMENTATIONS.items()}


class WingsLayer(nn.Module):
    """The learners of one block with their router, the prefix, and the gate of the adapters."""

    def __init__(self, config: WingsConfig, layer: int) -> None:
        super().__init__()
        width = config.hidden_size
        std = width**-0.5 if config.init_std == "scaled" else float(config.init_std)
        self.layer = layer
        self.names = config.learners if layer in config.layers_with_learners else ()
        # With shared factors the first learner also reads the other's tokens.
        self.shared = config.share_factors
        for name in self.names[:1] if self.shared else self.names:
            self.add_module(name, self._make_learner(config, std))
        self.router: PositionRouter | ModalityRouter | AttendedRouter | None = None
        is_routed = config.is_routed and bool(self.names)
        if is_routed and config.router == "position":
            self.router = PositionRouter(len(self.names), config.router_positions)
        elif is_routed and config.router == "modality":
            self.router = ModalityRouter(len(self.names))
        elif is_routed:
            self.router = AttendedRouter(self.names, **config.gate_options)
        self.prefix = Prefix(config) if layer in config.layers_with_prefix else None
        adapters = config.adapters
        is_gated = adapters is not None and layer in adapters.gate_layers
        self.lora_router = AttendedRouter(("lora",), **config.gate_options) if is_gated else None

    def forward(self, x: Tensor, sums: Tensor | None, wings: WingsPass) -> Tensor:
        """sum over learners of gate * O, added to the main attention's output: `[B, T, D]`.

        Args:
            x: the block's normed input, `[B, T, D]`.
            sums: routed attention's sums for the router, `[B, T, C]`, or None without a router.
            wings: the pass, on x's device and in its dtype; its learners act.
        """
        inputs = wings.learners
        assert inputs is not None, "a block is asked for its learners only where they act"
        gates = self._gates(sums, wings, inputs)
        share: Tensor | None = None
        absent: list[nn.Module] = []
        for number, name in enumerate(self.names):
            # Not by `self.learner`: one call less a block.
            learner = self._modules[self.names[0 if self.shared else number]]
            assert learner is not None
            source = inputs.sources[name]
            if source is None:
                absent.append(learner)
                continue
            cached = None if source.blocks is None else source.blocks[self.layer]
            out = learner(x, source, inputs.rope, gates[..., number, None], cached)
            share = out if share is None else share + out
        if share is None and self.router is not None:
            absent.append(self.router)
        if absent and self.training and torch.is_grad_enabled():
            for module in absent:
                zero = zero_of(module).expand_as(x)
                share = zero if share is None else share + zero
        return torch.zeros_like(x) if share is None else share

    @property
    def is_empty(self) -> bool:
        """True if nothing is left: no learner, no prefix and no gate."""
        return not self.names and self.prefix is None and self.lora_router is None

    def _make_learner(self, config: WingsConfig, std: float) -> Learner:
        width = config.hidden_size
        if config.learner_form == "cross_attention":
            return CrossAttentionLearner(width, config.rank, std)
        heads = count_heads(width, config.text_config.num_attention_heads)
        return LoRRALearner(width, config.rank, heads, std)

    def learner(self, number: int) -> Learner:
        """The learner of that number, in the order of the configuration."""
        learner: Any = self._modules[self.names[0 if self.shared else number]]
        return learner

    def _gates(self, sums: Tensor | None, wings: WingsPass, inputs: LearnerInputs) -> Tensor:
        """Weights of the learners, `[B, T, M]`; written to the trace in float32."""
        if self.router is None:
            gates = inputs.gate_mask.visible
        else:
            gates = self.router(sums, wings.queries, inputs.gate_mask)
        if inputs.guard_mask is not None:
            gates = gates * inputs.guard_mask[..., None]
        # Only the first: gradient checkpointing runs a block again, and the trace would keep all of
        # that graph alive.
        wings.trace.weights.setdefault(self.layer, gates)
        return gates.to(inputs.rope.table.dtype)


def zero_of(module: nn.Module) -> Tensor:
    """A zero that depends on every parameter.

    Where a batch has nothing for a learner its gradients are zero and not missing, so that every
    process of a distributed run has the same ones.
    """
    zero = sum(parameter.sum() * 0.0 for parameter in module.parameters())
    assert isinstance(zero, Tensor), "a module without parameters"
    return zero


class WingsAttentionMixin(nn.Module):
    """Put before a decoder's attention class: the same module, with `wings` added to its output."""

    wings: WingsLayer

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple:
        """The decoder's own attention, plus the learners' share where a pass comes with it."""
        wings: WingsPass | None = kwargs.get("wings")
        if wings is None:
            return super().forward(hidden_states, *args, **kwargs)
        table = wings.queries.table if wings.learners is None else wings.learners.rope.table
        if table.device != hidden_states.device or (
            wings.learners is not None and table.dtype != hidden_states.dtype
        ):
            kwargs["wings"] = wings = wings.like(hidden_states)
        main, second, *rest = super().forward(hidden_states, *args, **kwargs)
        if self.wings.prefix is None:
            wings.trace.reached.add(self.wings.layer)
        weights = sums = None
        if isinstance(second, RouterInputs):
            sums, weights = second
        is_training = self.training and torch.is_grad_enabled()
        if wings.learners is not None and self.wings.names:
            # After the main attention, as the router reads its weights.
            main = main + self.wings(hidden_states, sums, wings).to(main.dtype)
            if is_training and wings.adapters is None and self.wings.lora_router is not None:
                main = main + zero_of(self.wings.lora_router).to(main.dtype)
        elif is_training and not self.wings.is_empty:
            main = main + zero_of(self.wings).to(main.dtype)
        return main, weights, *rest


class RouterInputs(NamedTuple):
    """Returned in place of attention weights.

    sums: routed attention's, `[B, T, C]`, or None without a router. weights: `[B, H, T, S]` on
    request, else None.
    """

    sums: Tensor | None
    weights: Tensor | None


def wings_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    wings: WingsPass | None = None,
    **kwargs: Any,
) -> tuple[Tensor, RouterInputs | Tensor | None]:
    """The attention function of a decoder with wings, for one whose own choice is SDPA.

    Without a router or a prefix it *is* the decoder's own function, to the last bit.
    """
    return _attend(sdpa_attention_forward, module, query, key, value, attention_mask, wings, kwargs)


def wings_eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    wings: WingsPass | None = None,
    **kwargs: Any,
) -> tuple[Tensor, RouterInputs | Tensor | None]:
    """`wings_attention` for a decoder with only its own eager attention (soft caps, sinks)."""
    home = next(
        c
        for c in type(module).__mro__
        if issubclass(c, nn.Module) and not issubclass(c, WingsAttentionMixin)
    )
    decoder_attention = eager_attention_of(home)
    return _attend(decoder_attention, module, query, key, value, attention_mask, wings, kwargs)


def _attend(
    decoder_attention: AttentionFunction | None,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    wings: WingsPass | None,
    kwargs: dict[str, Any],
) -> tuple[Tensor, Any]:
    """The main attention's output with the prefix's share, and the router's inputs or weights."""
    output, second = _main_attention(
        decoder_attention, module, query, key, value, mask, wings, kwargs
    )
    if isinstance(module, WingsAttentionMixin) and module.wings.prefix is not None:
        share = module.wings.prefix(query, _scale(query, kwargs))
        output = output + share.to(output.dtype)
        # Here and not where learners are added: a decoder that does not call this function would
        # leave its prefix without effect, and a fresh one changes no logit that would tell.
        if wings is not None:
            wings.trace.reached.add(module.wings.layer)
    return output, second


def _scale(query: Tensor, kwargs: dict[str, Any]) -> float:
    """The factor of the main attention's scores; a decoder with the usual one passes none."""
    return query.shape[-1] ** -0.5 if kwargs.get("scaling") is None else kwargs["scaling"]


def _main_attention(
    decoder_attention: AttentionFunction | None,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    wings: WingsPass | None,
    kwargs: dict[str, Any],
) -> tuple[Tensor, Any]:
    if wings is not None and wings.is_packed:
        mask = wings.keys.within_sequences(mask, key.shape[2])
    router = gate = layer = None
    if isinstance(module, WingsAttentionMixin) and wings is not None:
        layer = module.wings.layer
        router = None if wings.learners is None else module.wings.router
        gate = None if wings.adapters is None else module.wings.lora_router
    is_routed = router is not None or gate is not None
    if wings is None or not (is_routed or wings.options.output_attentions):
        if decoder_attention is None:
            raise TypeError(f"{type(module).__name__} has no eager attention function.")
        output, _ = decoder_attention(module, query, key, value, mask, **kwargs)
        return output, None
    if kwargs.get("position_bias") is not None:
        raise WingsError(
            f"{type(module).__name__} adds a bias to its attention scores, which routed attention "
            f"does not compute: use router=None with this decoder."
        )
    length, count = query.shape[2], key.shape[2]
    if mask is not None:
        mask = mask[..., :count] if mask.dtype == torch.bool else wings.keys.visible(mask, count)
    # A chunk after others needs all keys; a first one is square, and no mask has to be made.
    if 1 < length < count and wings.is_first:
        # A static cache returns its whole capacity, of which only the first keys are there.
        key, value, keys = key[:, :, :length], value[:, :, :length], wings.queries
        mask = None if mask is None else mask[..., :length]
    elif wings.keys.tokens.length == count:
        keys = wings.keys.tokens
    else:
        keys = wings.keys.layout(count)
    routers = [one for one in (router, gate) if one is not None]
    if routers:
        parts = [one.columns(keys, wings.queries, key.dtype) for one in routers]
        columns = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
    else:
        columns = key.new_zeros(key.shape[0], key.shape[2], 1)
    rule = Rule(
        mask,
        _scale(query, kwargs),
        kwargs.get("softcap"),
        kwargs.get("s_aux"),
        kwargs.get("dropout", 0.0),
        partial(wings.keys.ranges, key.shape[2], kwargs.get("sliding_window")),
    )
    if wings.options.impl == "torch":
        output, sums = routed_attention_in_torch(query, key, value, columns, rule)
    else:
        output, sums = routed_attention(query, key, value, columns, rule, wings.options.impl)
    if gate is not None:
        assert layer is not None and wings.adapters is not None
        assert wings.adapters.gate_mask is not None, "gated adapters are guarded"
        sums, mass = sums[..., :-1], sums[..., -1:]
        gates = gate(mass, wings.queries, wings.adapters.gate_mask)
        gate_block(layer, gates[..., 0], wings)
    weights = None
    if wings.options.output_attentions:
        group = query.shape[1] // key.shape[1]
        seen = causal_mask(query, key) if mask is None else mask
        rule = Rule(seen, rule.scale, rule.softcap, rule.sinks, rule.dropout)
        weights = attention_weights(query, key.repeat_interleave(group, 1), rule).to(query.dtype)
    if not isinstance(module, WingsAttentionMixin):
        return output, weights
    return output, RouterInputs(None if router is None else sums, weights)


register_attention(IMPLEMENTATIONS["sdpa"], wings_attention, sdpa_mask)
register_attention(IMPLEMENTATIONS["eager"], wings_eager_attention, eager_mask)
