"""`WingsLayer`: learners, routers and prefix of one block, next to the main attention."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wings.attention.rotary import count_heads
from wings.attention.routed_attention import Rule, attention_weights, causal_mask
from wings.attention.routed_attention import routed_attention as routed_attention_in_torch
from wings.attention.token_layout import TokenLayout
from wings.config import WingsConfig
from wings.errors import WingsError
from wings.saved_code import SUFFIX
from wings.sense import IMAGE, Sense
from wings.upstream.attention import (
    AttentionFunction,
    eager_attention_of,
    eager_mask,
    register_attention,
    sdpa_attention_forward,
    sdpa_mask,
)

from .adapter import gate_block
from .combination import attended_shares
from .cross_attention import CrossAttentionLearner
from .dispatch import routed_attention
from .lorra import LoRRALearner
from .prefix import Prefix
from .router import AttendedRouter, ModalityRouter, PositionRouter, TokenGate
from .wings_pass import LearnerInputs, WingsPass

Learner = LoRRALearner | CrossAttentionLearner
Router = PositionRouter | ModalityRouter | AttendedRouter

# Names under which transformers finds our attention, by the implementation the decoder would use
# on its own.
IMPLEMENTATIONS = {"sdpa": f"wings{SUFFIX}", "eager": f"wings_eager{SUFFIX}"}
OWN: dict[str | None, str] = {ours: own for own, ours in IMPLEMENTATIONS.items()}


class WingsLayer(nn.Module):
    """The learners of one block with their routers, the prefix, and the gate of the adapters."""

    def __init__(self, config: WingsConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        # The senses that have learners here; their modules are this module's own.
        self.senses = {
            name: sense for name, sense in config.senses.items() if layer in sense.layers
        }
        for sense in self.senses.values():
            # With shared factors the first learner also reads the other's tokens.
            for name in sense.modules[:1] if sense.share_factors else sense.modules:
                self.add_module(name, make_learner(config, sense))
            self.add_module(sense.router_name, make_router(sense))
        if "router" not in self._modules:
            self.router: nn.Module | None = None
        self.prefix = Prefix(config) if layer in config.layers_with_prefix else None
        adapters = config.adapters
        self.lora_router: AttendedRouter | None = None
        if adapters is not None and layer in adapters.gate_layers:
            kinds = config.kinds_of_adapters
            self.lora_router = AttendedRouter(("lora",), **config.gate_options, kinds=kinds)

    def forward(self, x: Tensor, sums: "Sums | None", wings: WingsPass) -> Tensor:
        """sum over learners of gate * O, added to the main attention's output: `[B, T, D]`.

        Args:
            x: the block's normed input, `[B, T, D]`.
            sums: routed attention's sums for the routers, or None without a router.
            wings: the pass, on x's device and in its dtype; its learners act.
        """
        inputs = wings.learners
        assert inputs is not None, "a block is asked for its learners only where they act"
        share: Tensor | None = None
        absent: list[nn.Module] = []
        shares = None
        if sums is not None and sums.masses is not None:
            shares = attended_shares(sums.masses).unbind(-1)
        for place, (name, sense) in enumerate(self.acting(inputs)):
            own = inputs.senses[name]
            of_sense = None if sums is None else sums.of_routers.get(name)
            weight = own.share if shares is None else shares[place]
            gates = self._gates(sense, of_sense, weight, wings, inputs)
            found = False
            for number, module in enumerate(sense.modules):
                # Not by `self.learner`: one call less a block.
                learner = self._modules[sense.modules[0] if sense.share_factors else module]
                assert learner is not None
                source = own.sources[module]
                if source is None:
                    absent.append(learner)
                    continue
                cached = None if source.blocks is None else source.blocks[self.layer]
                out = learner(x, source, inputs.rope, gates[number], cached)
                share = out if share is None else share + out
                found = True
            router = self._modules[sense.router_name]
            if not found and router is not None:
                absent.append(router)
        if self.training and torch.is_grad_enabled():
            for part in (*absent, *self._idle(inputs)):
                zero = zero_of(part).expand_as(x)
                share = zero if share is None else share + zero
        return torch.zeros_like(x) if share is None else share

    def acting(self, inputs: LearnerInputs) -> list[tuple[str, Sense]]:
        """The senses whose learners act in this block in a pass."""
        return [(name, self.senses[name]) for name in inputs.senses if name in self.senses]

    @property
    def is_empty(self) -> bool:
        """True if nothing is left: no learner, no prefix and no gate."""
        return not self.senses and self.prefix is None and self.lora_router is None

    def router_of(self, sense: Sense) -> Router | None:
        """The router of a sense's learners."""
        router: Any = self._modules[sense.router_name]
        return router

    def learner(self, number: int, sense: str = IMAGE) -> Learner:
        """The learner of that number, in the order of the configuration."""
        of = self.senses[sense]
        learner: Any = self._modules[of.modules[0 if of.share_factors else number]]
        return learner

    def _idle(self, inputs: LearnerInputs) -> list[nn.Module]:
        """Learners and routers of the senses that do not act in a pass."""
        idle = [sense for name, sense in self.senses.items() if name not in inputs.senses]
        names = [name for sense in idle for name in (*sense.modules, sense.router_name)]
        found = [self._modules.get(name) for name in names]
        return [module for module in found if module is not None]

    def _gates(
        self,
        sense: Sense,
        sums: Tensor | None,
        weight: Tensor | None,
        wings: WingsPass,
        inputs: LearnerInputs,
    ) -> Sequence[Tensor | TokenGate]:
        """The weights of each of a sense's learners, `[B, T, 1]`; in float32 in the trace."""
        own, router = inputs.senses[sense.name], self._modules[sense.router_name]
        if own.gates_in_kernel:
            assert weight is None, "the kernel knows of no other senses"
            if router is None:
                return [TokenGate(factor) for factor in own.gate_mask.factor[:, 0].unbind(-1)]
            return router(sums, wings.queries, own.gate_mask, in_kernel=True)
        if router is None:
            gates = own.gate_mask.factor
        else:
            gates = router(sums, wings.queries, own.gate_mask)
        if weight is not None:
            gates = gates * weight[..., None]
        # Only the first: gradient checkpointing runs a block again, and the trace would keep all of
        # that graph alive.
        wings.trace.weights.setdefault((self.layer, sense.name), gates)
        return gates.to(inputs.rope.table.dtype)[..., None].unbind(-2)


def make_learner(config: WingsConfig, sense: Sense) -> Learner:
    """A fresh learner of a sense."""
    width = config.hidden_size
    std = width**-0.5 if sense.init_std == "scaled" else float(sense.init_std)
    if sense.learner_form == "cross_attention":
        return CrossAttentionLearner(width, sense.rank, std)
    heads = count_heads(width, config.text_config.num_attention_heads)
    return LoRRALearner(width, sense.rank, heads, std)


def make_router(sense: Sense) -> Router | None:
    """A fresh router of a sense's learners; None where they have weight 1."""
    if not sense.is_routed:
        return None
    if sense.router == "position":
        return PositionRouter(len(sense.learners), sense.router_positions)
    if sense.router == "modality":
        return ModalityRouter(len(sense.learners), sense.kind)
    return AttendedRouter(sense.learners, **sense.gate_options, kinds=(sense.kind,))


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
        if wings.learners is not None and self.wings.senses:
            # After the main attention, as the router reads its weights.
            main = main + self.wings(hidden_states, sums, wings).to(main.dtype)
            if is_training and wings.adapters is None and self.wings.lora_router is not None:
                main = main + zero_of(self.wings.lora_router).to(main.dtype)
        elif is_training and not self.wings.is_empty:
            main = main + zero_of(self.wings).to(main.dtype)
        return main, weights, *rest


class Sums(NamedTuple):
    """Routed attention's sums in one block.

    of_routers: `[B, T, C]` by sense with a router. masses: on the tokens of each sense that acts,
    `[B, T, K]`, where the senses share tokens by them, else None.
    """

    of_routers: dict[str, Tensor]
    masses: Tensor | None


class RouterInputs(NamedTuple):
    """Returned in place of attention weights.

    sums: None without a router. weights: `[B, H, T, S]` on request, else None.
    """

    sums: Sums | None
    weights: Tensor | None


class ColumnPlan(NamedTuple):
    """Who reads the columns that routed attention sums in one block of a pass.

    layer: the block. routers: of the senses that act, by name. kinds: whose masses are wanted, as
    the senses share tokens by them; () if not. gate: of the adapters, or None.
    """

    layer: int
    routers: dict[str, Router]
    kinds: tuple[int, ...]
    gate: AttendedRouter | None

    @classmethod
    def of(cls, module: nn.Module, wings: WingsPass) -> "ColumnPlan":
        """The plan of a block, whether it has wings or not."""
        if not isinstance(module, WingsAttentionMixin):
            return cls(-1, {}, (), None)
        layer, inputs = module.wings, wings.learners
        routers, kinds = {}, []
        for name, sense in () if inputs is None else layer.acting(inputs):
            kinds.append(sense.kind)
            router = layer.router_of(sense)
            if router is not None:
                routers[name] = router
        shares = inputs is not None and inputs.weighs_masses and len(kinds) > 1
        gate = None if wings.adapters is None else layer.lora_router
        return cls(layer.layer, routers, tuple(kinds) if shares else (), gate)

    @property
    def is_routed(self) -> bool:
        """True if any column is wanted."""
        return bool(self.routers or self.kinds) or self.gate is not None

    def columns(
        self, keys: TokenLayout, wings: WingsPass, dtype: torch.dtype
    ) -> tuple[Tensor, list[int]]:
        """`[B, S, C]`: those of the routers, of the masses and of the gate; how many of each."""
        readers = [*self.routers.values(), *([] if self.gate is None else [self.gate])]
        known = wings.keys.columns if keys is wings.keys.tokens else {}
        parts = []
        for one in readers:
            part = known.get(one.reads)
            part = one.columns(keys, wings.queries) if part is None else part
            parts.append(part.to(dtype))
        if self.kinds:
            masses = torch.stack([keys.kind == kind for kind in self.kinds], dim=-1)
            parts.insert(len(self.routers), masses.to(dtype))
        if not parts:
            return keys.table.new_zeros(*keys.kind.shape, 1, dtype=dtype), []
        whole = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return whole, [part.shape[-1] for part in parts]

    def split(self, sums: Tensor, widths: list[int]) -> tuple[Sums | None, Tensor | None]:
        """Routed attention's sums `[B, T, C]`, for the learners and for the adapters' gate."""
        if not widths:
            return None, None
        parts = list(sums.split(widths, dim=-1)) if len(widths) > 1 else [sums]
        mass = None if self.gate is None else parts.pop()
        masses = parts.pop() if self.kinds else None
        of_routers = dict(zip(self.routers, parts, strict=True))
        return Sums(of_routers, masses) if of_routers or self.kinds else None, mass


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
    plan = None if wings is None else ColumnPlan.of(module, wings)
    if wings is None or plan is None or not (plan.is_routed or wings.options.output_attentions):
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
    columns, widths = plan.columns(keys, wings, key.dtype)
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
    of_block, mass = plan.split(sums, widths)
    if plan.gate is not None and mass is not None:
        assert wings.adapters is not None
        assert wings.adapters.gate_mask is not None, "gated adapters are guarded"
        gates = plan.gate(mass, wings.queries, wings.adapters.gate_mask)
        gate_block(plan.layer, gates[..., 0], wings)
    weights = None
    if wings.options.output_attentions:
        group = query.shape[1] // key.shape[1]
        seen = causal_mask(query, key) if mask is None else mask
        rule = Rule(seen, rule.scale, rule.softcap, rule.sinks, rule.dropout)
        weights = attention_weights(query, key.repeat_interleave(group, 1), rule).to(query.dtype)
    if not isinstance(module, WingsAttentionMixin):
        return output, weights
    return output, RouterInputs(of_block, weights)


register_attention(IMPLEMENTATIONS["sdpa"], wings_attention, sdpa_mask)
register_attention(IMPLEMENTATIONS["eager"], wings_eager_attention, eager_mask)
