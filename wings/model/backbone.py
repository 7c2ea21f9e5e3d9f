"""`WingsModel`: vision tower, projector and the bare decoder with its wings; no output head."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from wings.attention.rotary import Rotary
from wings.attention.token_layout import IMAGE, Layout
from wings.cache.learner_cache import Memory, Pending
from wings.cache.wings_cache import WingsCache, WingsStaticCache
from wings.config import WingsConfig
from wings.encoders.open_clip_tower import VisionTower
from wings.errors import WingsError
from wings.layers.projector import Projector
from wings.upstream.attention import has_plain_masks, same_attention
from wings.upstream.cache_layers import is_recurrent
from wings.upstream.cache_name import NAME, BothCacheNames, cache_name, one_cache

from .embeds import count_images, layout_of_later, place
from .inject import grow_wings, refuse_unreached
from .prepare import Terms, WingsContext
from .pretrained import WingsPreTrainedModel


@dataclass
class WingsOutput(BothCacheNames, BaseModelOutputWithPast):
    """`router_weights`: one `[B, T, M]` per block with learners, on request."""

    router_weights: tuple[Tensor, ...] | None = None


class WingsModel(WingsPreTrainedModel):
    """Everything but the output head; `language_model` is the decoder, its keys unchanged."""

    def __init__(
        self, config: WingsConfig, decoder: PreTrainedModel, tower: VisionTower | None = None
    ) -> None:
        # transformers chooses an attention for the whole model here and writes it into every part's
        # configuration; the decoder keeps the one it chose for itself.
        with same_attention(decoder.config):
            super().__init__(config)
        self.vision_tower = VisionTower(config.vision_config) if tower is None else tower
        self._settle_images()
        self.projector = Projector(self.vision_tower.hidden_size, config.hidden_size)
        grow_wings(decoder, config)
        self.language_model = decoder
        self._cache_name = cache_name(decoder)
        # How the operations run: "auto", "triton" or "torch", see `wings.layers.dispatch.choose`.
        self.kernels = "auto"
        # Off inside `WingsForCausalLM.without_wings`.
        self.learners_act = True
        self._plain_masks = has_plain_masks(decoder)
        self.rotary = Rotary.of(config.hidden_size, config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The decoder's token embeddings."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the decoder's token embeddings."""
        self.language_model.set_input_embeddings(value)

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """`[N, 3, H, W]` -> `[N, image_seq_length, D]`: what takes the place of image tokens."""
        features = self.vision_tower(pixel_values)
        return self.projector(features.to(self.projector.first.weight.dtype))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        output_attentions: bool = False,
        output_router_weights: bool = False,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> WingsOutput:
        """Hidden states `[B, T, D]`; the arguments are those of `WingsForCausalLM.forward`."""
        config = self.config
        if pixel_values is not None and not len(pixel_values):
            pixel_values = None
        trained = self.training and torch.is_grad_enabled()
        given = one_cache(cache, past_key_values)
        if use_cache is None:
            use_cache = given is not None or not trained
        own = self._cache(given, use_cache)
        memory = None if own is None else own.memory
        past = None if memory is None else memory.layout
        layout = Layout.read(
            input_ids == config.image_token_id, attention_mask, position_ids,
            config.image_seq_length, past, 0 if memory is None else memory.tokens,
        )  # fmt: skip
        sees_images = pixel_values is not None or (memory is not None and memory.has_images)
        active = self.learners_act and bool(config.learners)
        active = active and (sees_images or not config.text_guard)
        if active:
            self._refuse_positions(layout, memory, position_ids is not None)
        packed = self._is_packed(layout, past, position_ids, memory)
        embeddings, left, begun = self._embed(
            input_ids, layout, pixel_values, memory, use_cache and not trained
        )
        riding = {}
        if config.layers_with_wings or packed or memory is not None:
            later = None
            if left is not None and any(begun):
                later = layout_of_later(left, layout, begun), left.rows
            terms = Terms(
                self.kernels, self._plain_masks, output_attentions, not self.checkpoints_blocks
            )
            riding["wings"] = WingsContext.build(
                config, self.rotary, layout, embeddings, memory, later, pixel_values is not None,
                active=active, packed=packed, terms=terms,
            )  # fmt: skip
        if memory is not None:
            memory.pending = left
            memory.has_images |= pixel_values is not None
        out = self.language_model(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            position_ids=layout.position.clamp(min=0),
            use_cache=use_cache,
            output_attentions=output_attentions,
            **{self._cache_name: own},
            **riding,
            **kwargs,
        )
        return WingsOutput(
            last_hidden_state=out.last_hidden_state,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
            router_weights=self._gates(riding.get("wings"), output_router_weights),
            **{NAME: own},
        )

    def _settle_images(self) -> None:
        config, tower = self.config, self.vision_tower
        config.vision_config = tower.config
        if config.image_seq_length is None:
            config.image_seq_length = tower.image_seq_length
        if config.image_seq_length != tower.image_seq_length:
            raise WingsError(
                f"image_seq_length is {config.image_seq_length}, but the vision tower gives "
                f"{tower.image_seq_length} features an image: leave it out."
            )

    def _cache(self, given: Cache | None, use_cache: bool) -> WingsCache | WingsStaticCache | None:
        if given is None:
            return WingsCache(self.config) if use_cache else None
        if not isinstance(given, (WingsCache, WingsStaticCache)):
            raise WingsError(
                f"The cache is a {type(given).__name__}, which cannot hold what the learners "
                f"need of past tokens: leave it out, or pass wings.WingsCache(model.config) or "
                f"wings.WingsStaticCache(model.config, max_cache_len=...)."
            )
        return given

    def _refuse_positions(self, layout: Layout, memory: Memory | None, given: bool) -> None:
        config = self.config
        if not config.is_routed or config.router != "position" or not len(layout):
            return
        before = 0 if memory is None else memory.tokens
        if memory is not None and isinstance(before, Tensor) and memory.steps(layout):
            return
        # Positions count tokens unless the caller says otherwise: most passes need no look at them.
        if not given and int(before) + len(layout) <= config.router_positions:
            return
        # Earlier tokens count too: under the text guard nobody has asked the router about them.
        past = None if memory is None else memory.layout
        largest = int(layout.after(past).position.max())
        if largest >= config.router_positions:
            raise WingsError(
                f"position {largest} lies beyond the {config.router_positions} that the position "
                f"router knows: build the model with larger router_positions or router='modality'."
            )

    def _is_packed(
        self,
        layout: Layout,
        past: Layout | None,
        position_ids: Tensor | None,
        memory: Memory | None,
    ) -> bool:
        """Whether a row holds several sequences; a border of an earlier chunk stays one."""
        packed = memory is not None and memory.is_packed
        asked = position_ids is not None and (memory is None or not memory.steps(layout))
        if asked and not packed:
            packed = layout.after(past).is_packed
        if packed:
            self._refuse_leaks()
        if memory is not None:
            memory.is_packed = packed
        return packed

    def _refuse_leaks(self) -> None:
        """Raises a `WingsError` where state would run from one packed sequence into the next."""
        if is_recurrent(self.config.text_config):
            raise WingsError(
                f"position_ids restart within a row, but {type(self.language_model).__name__} has "
                f"recurrent blocks, which cannot tell packed sequences apart: give one sequence a "
                f"row."
            )

    def _embed(
        self,
        input_ids: Tensor,
        layout: Layout,
        pixel_values: Tensor | None,
        memory: Memory | None,
        may_cut: bool,
    ) -> tuple[Tensor, Pending | None, list[int]]:
        """Layer-0 embeddings `[B, T, D]` with image features in place.

        Also what is left of an image that goes on in the next chunk, and how many images began in
        each row.
        """
        config = self.config
        late = None if memory is None else memory.pending
        # The id of an image token may lie past the table; its embedding is replaced anyway.
        is_id = input_ids == config.image_token_id
        embeddings = self.get_input_embeddings()(input_ids.masked_fill(is_id, 0))
        if memory is not None and memory.steps(layout) and pixel_values is None:
            return embeddings, None, []
        is_image = layout.kind == IMAGE
        waiting = [0] * len(is_image) if late is None else late.counts
        images = 0 if pixel_values is None else len(pixel_values)
        begun = count_images(is_image, images, config.image_seq_length, waiting, may_cut)
        features = None if pixel_values is None else self.image_features(pixel_values)
        if features is None and self.training and torch.is_grad_enabled():
            embeddings = embeddings + self._weightless_image(embeddings)
        embeddings, left = place(embeddings, is_image, features, begun, late)
        return embeddings, left, begun

    def _weightless_image(self, embeddings: Tensor) -> Tensor:
        """Zero, through tower and projector.

        Every process of a distributed run then runs the same parts, and the projector has a
        gradient, whatever its share of a batch holds.
        """
        size = self.vision_tower.config["image_size"]
        height, width = (size, size) if isinstance(size, int) else size
        blank = embeddings.new_zeros(1, 3, height, width)
        return self.image_features(blank).sum().to(embeddings.dtype) * 0.0

    def _gates(self, context: WingsContext | None, wanted: bool) -> tuple[Tensor, ...] | None:
        """What the blocks wrote down, once it is sure that the pass came by all of them."""
        if context is None:
            return None
        expected = set(self.config.layers_with_wings)
        refuse_unreached(self.language_model, expected, context.record.reached)
        if not wanted or not context.active:
            return None
        return tuple(context.record.gates[layer] for layer in self.config.layers_with_learners)
