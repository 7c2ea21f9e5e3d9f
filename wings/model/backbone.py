"""`WingsModel`: encoders, projectors and decoder with wings, without the output head."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils import ModelOutput

from wings.attention.main_keys import windows_of
from wings.attention.rotary import RotaryEmbedding
from wings.attention.token_layout import TEXT, TokenLayout
from wings.cache.learner_cache import LearnerCache, PendingFeatures
from wings.cache.wings_cache import WingsCache, WingsStaticCache
from wings.config import WingsConfig
from wings.encoders.encoder import Encoder, build_encoder
from wings.errors import WingsError
from wings.layers.projector import Projector
from wings.layers.wings_pass import PassOptions, WingsPass
from wings.lora_options import LoraOptions
from wings.sense import IMAGE, Sense, Words
from wings.upstream.attention import has_plain_masks, same_attention
from wings.upstream.cache_layers import is_recurrent
from wings.upstream.cache_name import NAME, NAMES, BothCacheNames, cache_name, one_cache
from wings.upstream.weights import mark_as_drawn

from .checkpoint import CheckpointMixin
from .embeds import count_items, layout_of_later, place
from .inject import add_wings, build_causal_lm, split, validate_adapted, validate_reached
from .inputs import read_items, unknown_token
from .prepare import prepare
from .shards import is_sharded

# Models whose learners do not act, by id: `WingsForCausalLM.without_wings`. A context variable and
# not a flag on the model, so that one thread does not change the passes of another.
WITHOUT_WINGS: ContextVar[frozenset[int]] = ContextVar("without_wings", default=frozenset())
# How many such contexts are open in all threads. While there are none no pass reads the variable,
# which torch.compile cannot trace in torch 2.11; where one opens, a compiled pass is traced again.
open_contexts = 0
_OPENING = threading.Lock()


@contextmanager
def without_wings(model: nn.Module) -> Iterator[None]:
    """Runs passes of this model without learners, in this thread alone."""
    global open_contexts
    with _OPENING:
        open_contexts += 1
    token = WITHOUT_WINGS.set(WITHOUT_WINGS.get() | {id(model)})
    try:
        yield
    finally:
        WITHOUT_WINGS.reset(token)
        with _OPENING:
            open_contexts -= 1


@dataclass
class WingsOutput(BothCacheNames, BaseModelOutputWithPast):
    """Attributes beyond transformers' own:

    router_weights: one `[B, T, M]` per block with learners, on request.
    others: what else the decoder returned, by name, such as `router_logits` of experts.
    """

    router_weights: tuple[Tensor, ...] | None = None
    others: dict[str, Any] | None = None


def other_outputs(out: ModelOutput) -> dict[str, Any]:
    """Outputs of a decoder that `WingsOutput` has no field for, also those that are None."""
    return {f.name: getattr(out, f.name) for f in fields(cast(Any, out)) if f.name not in _KNOWN}


_KNOWN = frozenset((*(f.name for f in fields(WingsOutput)), *NAMES))


def validate_inference(cache: WingsCache | WingsStaticCache) -> None:
    """Raises a `WingsError` for a cache of `torch.inference_mode` that is of no use outside.

    A growing cache makes new tensors, so it goes on in `no_grad`; a static one changes its own.
    """
    past = cache.learners.layout
    if past is None or not past.table.is_inference() or torch.is_inference_mode_enabled():
        return
    if torch.is_grad_enabled() or isinstance(cache, WingsStaticCache):
        raise WingsError(
            "The cache was filled within torch.inference_mode(), so it cannot be changed outside "
            "of it: use torch.no_grad() there, or go on within inference_mode."
        )


class WingsModel(CheckpointMixin):
    """Everything but the output head; `language_model` is the decoder with unchanged names."""

    unread_tensors = ("lm_head.",)

    def __init__(
        self,
        config: WingsConfig,
        decoder: PreTrainedModel | None = None,
        encoders: Mapping[str, Any] | None = None,
    ) -> None:
        """Builds a model with random weights, or from the given parts, which it takes over.

        Args:
            config: of the model.
            decoder: the language model without its head.
            encoders: of the senses, by name.
        """
        if decoder is None:
            decoder, _ = split(build_causal_lm(config.text_config))
            config.text_config = decoder.config
        # transformers chooses an attention for the whole model here and writes it into every part's
        # configuration; the decoder keeps its own choice.
        with same_attention(decoder.config):
            super().__init__(config)
        given = {} if encoders is None else encoders
        for name, sense in config.senses.items():
            encoder = given.get(name)
            if encoder is None:
                encoder = build_encoder(name, sense.encoder)
            else:
                # Its weights are loaded already and must not be drawn again.
                mark_as_drawn(encoder)
            self.add_encoder(sense, encoder)
        add_wings(decoder, config)
        self.language_model = decoder
        self._cache_name = cache_name(decoder)
        # How the operations run: "auto", "triton" or "torch", see `wings/layers/dispatch.py`.
        self.impl = "auto"
        self._plain_masks = has_plain_masks(decoder)
        self._windows = windows_of(config.text_config)
        self.rotary = RotaryEmbedding.of(config.hidden_size, config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Returns the decoder's token embeddings."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the decoder's token embeddings."""
        self.language_model.set_input_embeddings(value)

    def add_encoder(self, sense: Sense, encoder: Any) -> None:
        """Adds the encoder of a sense, an `Encoder`, and a fresh projector of its features."""
        self.add_module(sense.encoder_name, encoder)
        self._settle(sense, encoder)
        projector = Projector(encoder.hidden_size, self.config.hidden_size)
        self.add_module(sense.projector_name, projector)

    def encoder(self, sense: Sense) -> Any:
        """Returns the encoder of a sense, an `Encoder`."""
        return self._modules[sense.encoder_name]

    def features(self, sense: Sense, values: Tensor) -> Tensor:
        """`[N, *item shape]` -> `[N, seq_length, D]`: the embeddings of a sense's tokens."""
        return self.project(sense, self.encoder(sense)(values))

    def project(self, sense: Sense, features: Tensor) -> Tensor:
        """`[N, P, width of the encoder]` -> `[N, P, D]`, in the projector's dtype."""
        projector: Any = self._modules[sense.projector_name]
        return projector(features.to(projector.first.weight.dtype))

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """`[N, 3, H, W]` -> `[N, image_seq_length, D]`: the embeddings of image tokens."""
        return self.features(self.config.senses[IMAGE], pixel_values)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        output_attentions: bool = False,
        output_router_weights: bool = False,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> WingsOutput:
        """Computes hidden states `[B, T, D]`; arguments as for `WingsForCausalLM.forward`."""
        config, senses = self.config, self.config.senses
        values, kinds = read_items(senses, input_ids, pixel_values, kwargs)
        if input_ids is None:
            assert inputs_embeds is not None
            # Of text: embeddings do not say where items are.
            kinds = torch.full(
                inputs_embeds.shape[:2], TEXT, dtype=torch.long, device=inputs_embeds.device
            )
        else:
            inputs_embeds = self._embeddings_of(input_ids, kinds > TEXT)
        trained = self.training and torch.is_grad_enabled()
        given = one_cache(cache, past_key_values)
        if use_cache is None:
            use_cache = given is not None or not trained
        wings_cache = self._cache(given, use_cache)
        learner_cache = None if wings_cache is None else wings_cache.learners
        past = None if learner_cache is None else learner_cache.layout
        layout = TokenLayout.read(
            kinds, attention_mask, position_ids,
            [sense.seq_length or 0 for sense in senses.values()],
            past, 0 if learner_cache is None else learner_cache.length,
        )  # fmt: skip
        beginning = {senses[name].kind for name in values}
        seen = beginning if learner_cache is None else beginning | learner_cache.begun
        without = bool(open_contexts) and id(self) in WITHOUT_WINGS.get()
        acting = [
            sense
            for sense in senses.values()
            if sense.learners and (sense.kind in seen or not sense.guard) and not without
        ]
        own = adapters = config.adapters
        adapter_kinds: tuple[int, ...] = ()
        if adapters is not None:
            named = adapters.senses or senses
            adapter_kinds = tuple(senses[name].kind for name in named)
            if without or (adapters.needs_images and seen.isdisjoint(adapter_kinds)):
                adapters = None
        if acting:
            self._validate_positions(acting, layout, learner_cache, position_ids is not None)
        is_packed = self._is_packed(layout, past, position_ids, learner_cache)
        embeddings, left, later = self._embed(
            senses, inputs_embeds, layout, values, learner_cache, use_cache and not trained
        )
        wings = None
        has_wings = any(sense.learners for sense in senses.values()) or bool(
            config.prefix_length or config.lora
        )
        if has_wings or is_packed or learner_cache is not None:
            wings = prepare(
                self.rotary,
                layout,
                embeddings,
                learner_cache,
                later,
                beginning=beginning,
                acting=acting,
                rule=config.senses_rule,
                adapters=adapters,
                adapter_kinds=adapter_kinds,
                is_packed=is_packed,
                is_plain=self._plain_masks,
                windows=self._windows,
                recompute_kv=not self.checkpoints_blocks,
                options=PassOptions(self.impl, output_attentions, output_router_weights),
            )
        if learner_cache is not None:
            learner_cache.pending = left
            learner_cache.begun |= beginning
        out = self.language_model(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            position_ids=layout.position.clamp(min=0),
            use_cache=use_cache,
            output_attentions=output_attentions,
            **{self._cache_name: wings_cache},
            **({} if wings is None else {"wings": wings}),
            **kwargs,
        )
        return WingsOutput(
            last_hidden_state=out.last_hidden_state,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
            router_weights=self._router_weights(
                senses, wings, own, adapters, output_router_weights
            ),
            others=other_outputs(out),
            **{NAME: wings_cache},
        )

    def _embeddings_of(self, input_ids: Tensor, is_item: Tensor) -> Tensor:
        table = self.get_input_embeddings()
        try:
            # The id of a placeholder may be past the table; its embedding is replaced anyway.
            return table(input_ids.masked_fill(is_item, 0))
        except IndexError as error:
            ids = [sense.token_id for sense in self.config.senses.values()]
            fault = unknown_token(input_ids, ids, len(cast(Tensor, table.weight)))
            raise (error if fault is None else WingsError(fault)) from error

    def _settle(self, sense: Sense, encoder: Encoder) -> None:
        """Writes the encoder's configuration and number of features into the model's."""
        found = encoder.seq_length
        if sense.seq_length not in (None, found):
            where = "image_seq_length" if sense.name == IMAGE else f"{sense.name}: seq_length"
            words = Words.of(sense.name)
            raise WingsError(
                f"{where} is {sense.seq_length}, but the {words.encoder} gives {found} features "
                f"{words.one}: leave it out."
            )
        self.config.change_sense(sense.name, encoder=encoder.config, seq_length=found)

    def _cache(self, given: Cache | None, use_cache: bool) -> WingsCache | WingsStaticCache | None:
        if given is None:
            return WingsCache(self.config) if use_cache else None
        if not isinstance(given, (WingsCache, WingsStaticCache)):
            raise WingsError(
                f"The cache is a {type(given).__name__}, which cannot hold what the learners "
                f"need of past tokens: leave it out, or pass wings.WingsCache(model.config) or "
                f"wings.WingsStaticCache(model.config, max_cache_len=...)."
            )
        if not torch.compiler.is_compiling():
            validate_inference(given)
        return given

    def _validate_positions(
        self, acting: list[Sense], layout: TokenLayout, cache: LearnerCache | None, given: bool
    ) -> None:
        length = layout.length
        limits = [s.router_positions for s in acting if s.is_routed and s.router == "position"]
        if not limits or not length:
            return
        limit = min(limits)
        before = 0 if cache is None else cache.length
        if cache is not None and isinstance(before, Tensor) and cache.is_static_step(layout):
            return
        # Positions count tokens unless the caller says otherwise: most passes need no look at them.
        if not given and int(before) + length <= limit:
            return
        # Earlier tokens count too: under the text guard the router was not asked about them.
        past = None if cache is None else cache.layout
        largest = int(layout.after(past).position.max())
        if largest >= limit:
            raise WingsError(
                f"Position {largest} is beyond the {limit} that the position router knows: build "
                f"the model with larger router_positions or router='modality'."
            )

    def _is_packed(
        self,
        layout: TokenLayout,
        past: TokenLayout | None,
        position_ids: Tensor | None,
        cache: LearnerCache | None,
    ) -> bool:
        """Finds out whether a row holds several sequences, also across chunks."""
        packed = cache is not None and cache.is_packed
        asked = position_ids is not None and (cache is None or not cache.is_static_step(layout))
        if asked and not packed:
            packed = layout.after(past).is_packed
        if packed:
            self._validate_packing()
        if cache is not None:
            cache.is_packed = packed
        return packed

    def _validate_packing(self) -> None:
        """Raises a `WingsError` if state would pass from one packed sequence into the next."""
        if is_recurrent(self.config.text_config):
            raise WingsError(
                f"position_ids restart within a row, but {type(self.language_model).__name__} has "
                f"recurrent blocks, which cannot tell packed sequences apart: give one sequence a "
                f"row."
            )

    def _embed(
        self,
        senses: Mapping[str, Sense],
        embeddings: Tensor,
        layout: TokenLayout,
        values: Mapping[str, Tensor],
        cache: LearnerCache | None,
        may_cut: bool,
    ) -> tuple[Tensor, dict[int, PendingFeatures], dict[int, tuple[TokenLayout, Tensor]]]:
        """Returns layer-0 embeddings `[B, T, D]` with features in place.

        Also, by kind, the features left of items that go on in the next chunk, and those of items
        that began here with their layout.
        """
        waiting = {} if cache is None else cache.pending
        left: dict[int, PendingFeatures] = {}
        later: dict[int, tuple[TokenLayout, Tensor]] = {}
        if cache is not None and cache.is_static_step(layout) and not values:
            return embeddings, left, later
        for name, sense in senses.items():
            given, late = values.get(name), waiting.get(sense.kind)
            is_item = layout.kind == sense.kind
            counts = [0] * len(is_item) if late is None else late.counts
            items = 0 if given is None else len(given)
            begun = count_items(sense, is_item, items, counts, may_cut)
            features = None if given is None else self.features(sense, given)
            if features is None and self.training and torch.is_grad_enabled():
                embeddings = embeddings + self._weightless_item(sense, embeddings)
            embeddings, rest = place(embeddings, is_item, features, begun, late)
            if rest is not None:
                left[sense.kind] = rest
                if any(begun):
                    later[sense.kind] = layout_of_later(rest, layout, begun), rest.features
        return embeddings, left, later

    def _weightless_item(self, sense: Sense, embeddings: Tensor) -> Tensor:
        """Returns a zero that depends on a sense's projector, for a pass without its items.

        The projector has a gradient then whether the share of a batch has items or not. Where
        the encoder is sharded, all processes must gather its weights, so it runs too.
        """
        encoder = self.encoder(sense)
        if is_sharded(encoder):
            features = self.features(sense, embeddings.new_zeros(1, *encoder.item_shape))
        else:
            features = self.project(sense, embeddings.new_zeros(1, 1, encoder.hidden_size))
        return features.sum().to(embeddings.dtype) * 0.0

    def _router_weights(
        self,
        senses: Mapping[str, Sense],
        wings: WingsPass | None,
        own: LoraOptions | None,
        adapters: LoraOptions | None,
        wanted: bool,
    ) -> tuple[Tensor, ...] | None:
        """Returns the trace's weights, after checking that the pass reached every block's wings."""
        if wings is None:
            return None
        layers = {layer for sense in senses.values() for layer in sense.layers}
        expected = {*layers, *(() if own is None else own.gate_layers)}
        if self.config.prefix_length:
            expected |= {*self.config.layers_with_prefix}
        validate_reached(self.language_model, expected, wings.trace.reached)
        if adapters is not None:
            validate_adapted(self.language_model, set(adapters.layers), wings.trace.adapted)
        if not wanted or wings.learners is None:
            return None
        return tuple(weights_of(wings, senses, layer) for layer in sorted(layers))


def weights_of(wings: WingsPass, senses: Mapping[str, Sense], layer: int) -> Tensor:
    """Weights of the learners of all senses in a block, `[B, T, M]`; 0 where one is idle."""
    parts = []
    for name, sense in senses.items():
        if layer in sense.layers:
            found = wings.trace.weights.get((layer, name))
            if found is None:
                found = torch.zeros(*wings.queries.kind.shape, len(sense.learners))
            parts.append(found.to(wings.queries.table.device))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
