"""Wings of one block: learners, router and prefix beside the main attention, each added once."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from wings.attention.rotary import count_heads
from wings.attention.routed_attention import Rule, attention_weights, causal_mask
from wings.attention.source_tokens import Kept, Source
from wings.config import WingsConfig
from wings.errors import WingsError
from wings.model.prepare import WingsContext
from wings.upstream.attention import (
    AttentionFunction,
    eager_attention_of,
    eager_mask,
    register_attention,
    sdpa_attention_forward,
    sdpa_mask,
)

from .dispatch import learner_attention, routed_attention
from .lorra import LoRRALearner
from .lorra_decode import share_of_one_token
from .prefix import Prefix
from .router import AttendedRouter, ModalityRouter, PositionRouter

# Names under which transformers finds our attention, by the implementation the decoder would use
# on its own.
IMPLEMENTATIONS = {"sdpa": "wings", "eager": "wings_eager"}
OWN: dict[str | None, str] = {ours: own for own, ours in IMPLEMENTATIONS.items()}


class BlockWings(nn.Module):
    """The learners of one block, with two of them the router that weighs them, and the prefix."""

    def __init__(self, config: WingsConfig, layer: int) -> None:
        super().__init__()
        width = config.hidden_size
        heads = count_heads(width, config.text_config.num_attention_heads)
        std = width**-0.5 if config.init_std == "scaled" else float(config.init_std)
        self.layer, self.names = layer, config.learners
        for name in self.names:
            self.add_module(name, LoRRALearner(width, config.rank, heads, std))
        self.router: PositionRouter | ModalityRouter | AttendedRouter | None = None
        if config.is_routed and config.router == "position":
            self.router = PositionRouter(len(self.names), config.router_positions)
        elif config.is_routed and config.router == "modality":
            self.router = ModalityRouter(len(self.names))
        elif config.is_routed:
            self.router = AttendedRouter(self.names)
        self.prefix = Prefix(config) if config.prefix else None

    def forward(self, x: Tensor, sums: Tensor | None, context: WingsContext) -> Tensor:
        """What the learners add to the main attention's output.

        Args:
            x: the block's normed input, `[B, T, D]`.
            sums: routed attention's sums for the router, `[B, T, C]`, or None without a router.
            context: the pass.

        Returns:
            sum over learners of gate * O, `[B, T, D]`, in x's dtype.
        """
        if self.router is None:
            weights = context.gates(None)
        else:
            weights = self.router(sums, context.queries, context.gates)
        if context.acts is not None:
            weights = weights * context.acts[..., None]
        # Only the first: what gradient checkpointing computes again would be kept alive by it, with
        # all of its graph.
        context.record.gates.setdefault(self.layer, weights)
        weights = weights.to(x.dtype)
        present: dict[int, Source] = {}
        for n, name in enumerate(self.names):
            source = context.sources[name]
            if source is not None:
                present[n] = source
        share = None
        if present:
            share = self._share(x, weights, present, context)
        if self.training and torch.is_grad_enabled():
            for n in set(range(len(self.names))) - set(present):
                share = added(share, nothing_of(self.learner(n)).expand_as(x))
            if not present and self.router is not None:
                share = added(share, nothing_of(self.router).expand_as(x))
        return torch.zeros_like(x) if share is None else share

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left: all learners were removed, and there is no prefix."""
        return not self.names and self.prefix is None

    def learner(self, number: int) -> LoRRALearner:
        """The learner of that number, in the order of the configuration."""
        learner: Any = self._modules[self.names[number]]
        return learner

    def _share(
        self, x: Tensor, weights: Tensor, present: dict[int, Source], context: WingsContext
    ) -> Tensor:
        """Gated sum of the learners that have rows to look at, `[B, T, D]`.

        `present`: those rows, by the number of the learner.
        """
        factors = [self.learner(n)(x.dtype) for n in present]
        sources = [source.of(x.dtype) for source in present.values()]
        kept = [
            Kept(own.compress(source.rows))
            if source.memory is None
            else source.memory.kept(self.layer, own, source)
            for own, source in zip(factors, sources, strict=True)
        ]
        gates = [weights[..., n, None] for n in present]
        rotation = context.rotation.of(x.dtype)
        if x.shape[1] == 1:
            return share_of_one_token(x, factors, sources, kept, gates, rotation)
        share = None
        for own, source, of_rows, gate in zip(factors, sources, kept, gates, strict=True):
            way = context.terms.way
            out = learner_attention(x, x @ own.a_q, source, of_rows, own.inner, rotation, way)
            # The gate weighs r numbers a token, not D.
            share = added(share, (out * gate) @ own.b_o)
        assert share is not None, "there is at least one learner"
        return share


def added(share: Tensor | None, more: Tensor) -> Tensor:
    """The sum, of which nothing may be there yet."""
    return more if share is None else share + more


def nothing_of(module: nn.Module) -> Tensor:
    """A zero that depends on every parameter.

    Where a batch has nothing for a learner its gradients are zero and not missing, so that every
    process of a distributed run has the same ones.
    """
    zero = sum(parameter.sum() * 0.0 for parameter in module.parameters())
    assert isinstance(zero, Tensor), "a module without parameters"
    return zero


class WingsAttentionMixin(nn.Module):
    """Put before a decoder's attention class: the same module, with `wings` beside its output."""

    wings: BlockWings

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple:
        """The decoder's own attention, plus the learners' share where a context rides along."""
        context: WingsContext | None = kwargs.get("wings")
        if context is None:
            return super().forward(hidden_states, *args, **kwargs)
        context = context.to(hidden_states.device)
        kwargs["wings"] = context
        main, evidence, *rest = super().forward(hidden_states, *args, **kwargs)
        if self.wings.prefix is None:
            context.record.reached.add(self.wings.layer)
        weights = None
        if isinstance(evidence, Evidence):
            weights, evidence = evidence.weights, evidence.sums
        if context.active:
            main = main + self.wings(hidden_states, evidence, context).to(main.dtype)
        elif self.training and torch.is_grad_enabled() and not self.wings.is_empty:
            main = main + nothing_of(self.wings).to(main.dtype)
        return main, weights, *rest


class Evidence:
    """Handed back in place of attention weights: the router's sums and, on request, the weights."""

    def __init__(self, sums: Tensor | None, weights: Tensor | None) -> None:
        self.sums, self.weights = sums, weights


def wings_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    wings: WingsContext | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Evidence | None]:
    """The attention function of a decoder with wings, for one whose own choice is SDPA.

    Without work for a router or a prefix it *is* the decoder's own function, to the last bit.
    """
    return _attend(sdpa_attention_forward, module, query, key, value, attention_mask, wings, kwargs)


def wings_eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    wings: WingsContext | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Evidence | None]:
    """The same for a decoder that can only use its own eager attention (soft caps, sinks)."""
    home = next(
        c
        for c in type(module).__mro__
        if issubclass(c, nn.Module) and not issubclass(c, WingsAttentionMixin)
    )
    own = eager_attention_of(home)
    return _attend(own, module, query, key, value, attention_mask, wings, kwargs)


def _attend(
    own: AttentionFunction | None,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    wings: WingsContext | None,
    kwargs: dict[str, Any],
) -> tuple[Tensor, Any]:
    """The main attention's output with what the prefix adds, and evidence or weights."""
    output, found = _main_attention(own, module, query, key, value, mask, wings, kwargs)
    if isinstance(module, WingsAttentionMixin) and module.wings.prefix is not None:
        added_by_prefix = module.wings.prefix(query, scale_of(query, kwargs))
        output = output + added_by_prefix.to(output.dtype)
        # Here and not where learners are added: a decoder that does not ask this function would
        # leave its prefix dead, and a fresh one changes no logit that would tell.
        if wings is not None:
            wings.record.reached.add(module.wings.layer)
    return output, found


def scale_of(query: Tensor, kwargs: dict[str, Any]) -> float:
    """The factor of the main attention's scores, of which a decoder says nothing if it is usual."""
    return query.shape[-1] ** -0.5 if kwargs.get("scaling") is None else kwargs["scaling"]


def _main_attention(
    own: AttentionFunction | None,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    wings: WingsContext | None,
    kwargs: dict[str, Any],
) -> tuple[Tensor, Any]:
    if wings is not None and wings.packed:
        mask = wings.masks.cut(mask, wings.queries, wings.main_keys(key.shape[2]))
    router = None
    if isinstance(module, WingsAttentionMixin) and wings is not None and wings.active:
        router = module.wings.router
    if wings is None or (router is None and not wings.terms.with_attentions):
        if own is None:
            raise TypeError(f"{type(module).__name__} has no eager attention function.")
        output, _ = own(module, query, key, value, mask, **kwargs)
        return output, None
    if kwargs.get("position_bias") is not None:
        raise WingsError(
            f"{type(module).__name__} adds a bias to its attention scores, which routed attention "
            f"does not compute: use router=None with this decoder."
        )
    rule = Rule(
        wings.masks.seen(mask, key.shape[2]),
        scale_of(query, kwargs),
        kwargs.get("softcap"),
        kwargs.get("s_aux"),
        kwargs.get("dropout", 0.0),
    )
    length = query.shape[2]
    if 1 < length < key.shape[2] and wings.is_first:
        # A static cache hands over all its room, of which only the first keys are there.
        key, value, keys = key[:, :, :length], value[:, :, :length], wings.queries
        rule.mask = None if rule.mask is None else rule.mask[..., :length]
    else:
        keys = wings.main_keys(key.shape[2])
    columns = (
        key.new_zeros(key.shape[0], key.shape[2], 1)
        if router is None
        else router.columns(keys, wings.queries, key.dtype)
    )
    rule.runs = partial(wings.runs, len(keys), kwargs.get("sliding_window"))
    output, sums = routed_attention(query, key, value, columns, rule, wings.terms.way)
    weights = None
    if wings.terms.with_attentions:
        group = query.shape[1] // key.shape[1]
        if rule.mask is None:
            rule.mask = causal_mask(query, key)
        weights = attention_weights(query, key.repeat_interleave(group, 1), rule).to(query.dtype)
    if not isinstance(module, WingsAttentionMixin):
        return output, weights
    return output, Evidence(None if router is None else sums, weights)


register_attention(IMPLEMENTATIONS["sdpa"], wings_attention, sdpa_mask)
register_attention(IMPLEMENTATIONS["eager"], wings_eager_attention, eager_mask)
