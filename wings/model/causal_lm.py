"""`WingsForCausalLM`: a decoder LLM with a vision tower, and learners next to its attention."""

import contextlib
import copy
import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from wings.config import WingsConfig
from wings.config_values import validate_field
from wings.errors import WingsError
from wings.layers.dispatch import validate_impl
from wings.layers.router import AttendedRouter
from wings.lora_options import LoraOptions
from wings.processing.item_encoder import AUDIO
from wings.sense import IMAGE, VALUES, Sense
from wings.sharing.pushed_to_hub import PushedToHub
from wings.upstream.auto_models import name_for_servers, register_model
from wings.upstream.cache_name import NAME, BothCacheNames, cache_of, one_cache
from wings.upstream.causal_lm import RESIZING, DecoderCall, OwnCausalLM
from wings.upstream.quantizers import is_quantized
from wings.upstream.weights import mark_as_drawn

from .backbone import WingsModel, WingsOutput, without_wings
from .checkpoint import OF_SENSES, RECONFIGURABLE, CheckpointMixin
from .chunked_loss import ChunkedHead, mean_of_items, validate_chunked, validate_loss_keywords
from .compose import add_sense, composed, drop_sense, name_encoder
from .from_parts import from_parts, read_encoder
from .generation import WingsGenerationMixin
from .head_of_tokens import HeadOfTokens, before_labels
from .inject import attach_wings, build_causal_lm, extract_causal_lm, split
from .inputs import labels_of_text, validate_inputs
from .logits import prefix_of
from .self_check import check_untested_releases

# Keywords of the loss function, which the decoder is not called with.
LOSS_KEYWORDS = ("num_items_in_batch", "shift_labels")


@dataclasses.dataclass
class WingsCausalLMOutput(BothCacheNames, CausalLMOutputWithPast):
    """Attributes beyond transformers' own:

    router_weights: one `[B, T, M]` per block with learners, on request.
    router_logits, aux_loss: of a decoder with experts, as its own causal LM returns them.
    """

    router_weights: tuple[Tensor, ...] | None = None
    router_logits: tuple[Tensor, ...] | None = None
    aux_loss: Tensor | None = None


class WingsForCausalLM(PushedToHub, CheckpointMixin, WingsGenerationMixin):  # type: ignore[misc]
    """Any decoder LLM with a vision tower, visual and textual learners and routers.

    Wings: Learning Multimodal LLMs without Text-only Forgetting (arXiv 2406.03496). Fresh learners
    leave every logit of the decoder as it was.
    """

    def __init__(
        self,
        config: WingsConfig,
        causal_lm: PreTrainedModel | None = None,
        encoders: Mapping[str, nn.Module] | None = None,
    ) -> None:
        """Builds a model with random weights, or from the given parts, which it takes over.

        Args:
            config: of the model.
            causal_lm: the language model.
            encoders: of the senses, by name.
        """
        super().__init__(config)
        if causal_lm is None:
            causal_lm = build_causal_lm(config.text_config)
        else:
            # Its weights are loaded already and must not be drawn again.
            mark_as_drawn(causal_lm)
        decoder, head = split(causal_lm)
        config.text_config = decoder.config
        # What the family computes around its decoder: logits, losses, inputs of generation.
        self.own = OwnCausalLM(causal_lm, prefix_of(decoder, causal_lm), prefix_of(head, causal_lm))
        self._is_stateful = causal_lm._is_stateful
        self.model = WingsModel(config, decoder, encoders)
        self.lm_head = head
        self.keep_whole(decoder)
        table = prefix_of(decoder.get_input_embeddings(), decoder)
        self.tie_head(f"model.language_model.{table}.weight")
        self.post_init()
        # Parts may come in other dtypes; a model has one.
        for sense in config.senses.values():
            self.model.get_submodule(sense.projector_name).to(decoder.dtype)
        for name, module in decoder.named_modules():
            if name.endswith(".wings"):
                module.to(decoder.dtype)

    @classmethod
    def from_vision_text_pretrained(
        cls, vision: str | Mapping, text: str | PreTrainedModel, **options: Any
    ) -> "WingsForCausalLM":
        """Puts a vision tower and a language model together; both keep their weights.

        Args:
            vision: as for `VisionTower.from_pretrained`.
            text: a Hub id, a folder, a GGUF file or a loaded causal LM, which the model takes
                over.
            options: fields of `WingsConfig`; `dtype` for a `text` that is loaded here.

        Raises:
            WingsError: an unknown option, a decoder that is not supported, or one whose logits
                the model would not reproduce.
        """
        return cls.from_pretrained_parts(text=text, image=vision, **options)

    @classmethod
    def from_pretrained_parts(
        cls,
        *,
        text: str | PreTrainedModel,
        image: str | Mapping | None = None,
        audio: str | Mapping | None = None,
        senses: Mapping[str, Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> "WingsForCausalLM":
        """Puts a language model and encoders of senses together; all keep their weights.

        Args:
            text: a Hub id, a folder, a GGUF file or a loaded causal LM, which the model takes
                over.
            image: a vision tower, as `VisionTower.from_pretrained` takes it; None for none.
            audio: an audio encoder, as `AudioEncoder.from_pretrained` takes it; None for none.
            senses: fields of further senses, as in `WingsConfig.other_senses`, such as
                `{"audio": {"rank": 16}}`.
            options: fields of `WingsConfig`, those of images without a prefix; `dtype` for a `text`
                that is loaded here.

        Raises:
            WingsError: an unknown option, a decoder that is not supported, or one whose logits
                the model would not reproduce.
        """
        return from_parts(cls, text, {IMAGE: image, AUDIO: audio}, senses or {}, options)

    @classmethod
    def compose(
        cls, first: "WingsForCausalLM", *others: "WingsForCausalLM", rule: str = "sum"
    ) -> "WingsForCausalLM":
        """Puts the senses of models that were trained apart on one language model, untrained.

        Rows with neither sense are computed as by the language model, to the last bit; rows with
        one as by the model that has it.

        Args:
            first: a model, which is copied.
            *others: further models, on the same frozen language model.
            rule: how senses share a token that can see items of several: `"sum"`, `"mean"`,
                `"newest"` or `"attended"`; see `wings/layers/combination.py`.

        Raises:
            WingsError: language models that differ in a bit, senses without a guard, or a sense or
                adapters that two of the models have.
        """
        validate_field("senses_rule", rule, "compose: ")
        if not others:
            raise WingsError("compose: only one model was given; give two or more.")
        return composed(first, list(others), rule)

    def add(self, sense: str, encoder: str | Mapping | nn.Module, **fields: Any) -> None:
        """Gives the model a fresh sense, in place; all others compute what they did.

        Args:
            sense: `"image"`, `"audio"`, or the name of one of your own.
            encoder: a module, see `wings/encoders/encoder.py`; of images and sounds also its
                source, as in `from_pretrained_parts`.
            **fields: of the sense, as in `WingsConfig.other_senses`, such as `rank=16`.

        Raises:
            WingsError: the model has it already, or a bad field.
        """
        module = encoder if isinstance(encoder, nn.Module) else read_encoder(sense, encoder)
        add_sense(self, sense, module, fields)
        if not isinstance(encoder, nn.Module):
            name_encoder(self.config, sense, encoder)

    def drop(self, sense: str) -> None:
        """Takes a sense off, in place; all others compute what they did, to the last bit.

        Raises:
            WingsError: the model does not have it, or no other.
        """
        drop_sense(self, sense)

    @property
    def impl(self) -> str:
        """Implementation of the two operations of every block: `"auto"`, `"triton"` or `"torch"`.

        `"auto"` uses the Triton kernels on a GPU wherever they can run. The environment variable
        `WINGS_KERNELS` overrides it.
        """
        return self.model.impl

    @impl.setter
    def impl(self, impl: str) -> None:
        self.model.impl = validate_impl(impl)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        loss_chunk: int | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        output_router_weights: bool = False,
        return_dict: bool | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> WingsCausalLMOutput | tuple:
        """Computes logits, and the loss where there are labels.

        Args:
            input_ids: `[B, T]`, `image_token_id` once per image feature.
            attention_mask: `[B, P + T]` of 0 and 1, P the tokens already in the cache.
            position_ids: `[B, T]`; restarting at 0 marks a packed sequence.
            pixel_values: `[N, 3, H, W]`, all pictures that begin in `input_ids`, in reading order.
            labels: `[B, T]`, -100 where no loss is wanted; a sequence's first token and image
                tokens have none.
            cache: a `WingsCache` or `WingsStaticCache` with the earlier tokens.
            use_cache: default: True except in training.
            logits_to_keep: number of last tokens that get logits, 0 for all; or their columns,
                `[C]`; or a mask `[B, T]` bool of N tokens. With a mask logits are `[N, V]`, and a
                loss needs `shift_labels` `[N]`.
            loss_chunk: tokens whose logits exist at one time in a loss that needs no more of them.
                The output's logits are then empty. None: all logits at one time, as families get
                that add a loss of all logits.
            output_attentions: also return the main attention's weights, `[B, H, T, S]` a block;
                only this option stores whole matrices.
            output_hidden_states: also return the input of each block.
            output_router_weights: also return each learner's weight per token.
            return_dict: False for a tuple.
            past_key_values: the same as `cache`, under its name before transformers 5.24.
            inputs_embeds: `[B, T, D]` of text, in place of `input_ids`.
            **kwargs: items of further senses, such as `audio_values` `[N, *item shape]`, as
                `pixel_values` are of images; the rest goes to the decoder.

        Raises:
            WingsError: pictures and image tokens that do not match (both counts, the row), or
                shapes that do not fit.
        """
        items = {name: kwargs.pop(name) for name in [*kwargs] if VALUES.fullmatch(name)}
        items["pixel_values"] = pixel_values
        validate_inputs(input_ids, inputs_embeds, attention_mask, position_ids, labels, items)
        given_cache = one_cache(cache, past_key_values)
        of_loss = {name: kwargs.pop(name) for name in LOSS_KEYWORDS if name in kwargs}
        of_loss = {name: value for name, value in of_loss.items() if value is not None}

        def run(**added: Any) -> WingsOutput:
            return self.model(
                input_ids, attention_mask, position_ids, cache=given_cache, use_cache=use_cache,
                output_attentions=output_attentions, output_hidden_states=output_hidden_states,
                output_router_weights=output_router_weights, inputs_embeds=inputs_embeds,
                **items, **added,
            )  # fmt: skip

        def loss_of(logits: Tensor, labels: Tensor, *_: Any, **others: Any) -> Tensor:
            if isinstance(head, ChunkedHead) and head.loss is not None:
                validate_loss_keywords(others)
                return mean_of_items(head.loss, **of_loss)
            others |= {"vocab_size": logits.shape[-1], **of_loss}
            return self.loss_function(logits=logits, labels=labels, **others)

        if labels is not None:
            ids = [sense.token_id for sense in self.config.senses.values()]
            labels = labels_of_text(labels, ids)
            labels = without_first(labels, attention_mask, position_ids)
        if loss_chunk is not None:
            validate_chunked(loss_chunk, labels, logits_to_keep, of_loss)
            if labels is not None and "shift_labels" not in of_loss:
                logits_to_keep, of_loss["shift_labels"] = before_labels(labels)
        decoder = DecoderCall(self.model.language_model, run)
        head: Callable[[Tensor], Tensor] = self.lm_head
        mask = None
        if isinstance(logits_to_keep, Tensor) and logits_to_keep.dtype == torch.bool:
            # All tokens reach the head, which picks: older families know columns only.
            mask, logits_to_keep = logits_to_keep, 0
            head = HeadOfTokens(self.lm_head, mask)
        if loss_chunk is not None:
            head = self._chunked_head(decoder, mask, of_loss["shift_labels"], loss_chunk)
        out = self.own(
            decoder, head, loss_of, self.training, input_ids=input_ids,
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, labels=labels,
            logits_to_keep=logits_to_keep, **kwargs,
        )  # fmt: skip
        result = WingsCausalLMOutput(
            loss=out.loss,
            logits=out.logits if head is self.lm_head else out.logits[0],
            hidden_states=decoder.out.hidden_states,
            attentions=decoder.out.attentions,
            router_weights=decoder.out.router_weights,
            router_logits=decoder.out.others.get("router_logits"),
            aux_loss=getattr(out, "aux_loss", None),
            **{NAME: cache_of(decoder.out)},
        )
        return result.to_tuple() if return_dict is False else result

    def _chunked_head(
        self, decoder: DecoderCall, mask: Tensor | None, labels: Tensor, chunk: int
    ) -> ChunkedHead:
        """A head that computes the loss of chunks, each as `forward` does it for all logits."""

        def loss_of(head: Callable[[Tensor], Tensor], hidden: Tensor, labels: Tensor) -> Tensor:
            of_head = head(hidden[None])
            logits = self.own.logits(decoder, self.lm_head, of_head, self.training)
            # One item in the batch gives the sum.
            return self.loss_function(
                logits=logits, labels=None, vocab_size=logits.shape[-1],
                shift_labels=labels[None], num_items_in_batch=1,
            )  # fmt: skip

        def needs_all() -> bool:
            return self.own.adds_loss_of_logits(decoder, self.lm_head, self.training)

        return ChunkedHead(self.lm_head, mask, labels, chunk, loss_of, needs_all)

    def get_input_embeddings(self) -> nn.Module:
        """Returns the decoder's token embeddings."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the decoder's token embeddings."""
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """Returns the output head."""
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replaces the output head."""
        self.lm_head = value

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resizes embeddings and output head; arguments as in transformers.

        Raises:
            WingsError: a family that does this in a way of its own.
        """
        if own := sorted(self.own.replaces & set(RESIZING)):
            raise WingsError(
                f"{self.own.kind.__name__} resizes its embeddings in a way of its own ({own[0]}), "
                f"which Wings does not reproduce: resize the language model before it gets wings."
            )
        return super().resize_token_embeddings(*args, **kwargs)

    def get_decoder(self) -> nn.Module:
        """Returns everything but the output head."""
        return self.model

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Returns all parameters by part, in this order; parts without any are absent:

        vision_tower, projector, image_learners, text_learners, router, the same of further senses
        (audio_encoder, audio_projector, audio_learners, audio_text_learners, audio_router), prefix,
        lora, language_model.
        """
        groups = defaultdict(list)
        for name, parameter in self.named_parameters():
            groups[part_of(name)].append(parameter)
        parts = [part for sense in self.config.senses.values() for part in parts_of(sense)]
        order = (*parts, "prefix", "lora", "router", "language_model")
        return {part: groups[part] for part in dict.fromkeys(order) if part in groups}

    def reconfigure(self, **changes: Any) -> None:
        """Changes the blocks' `learners`, `router` with its gate, prefix or `lora` in place.

        Existing parts keep their weights, new ones start fresh, parts no longer named are removed.
        The first two of a further sense are given by its name:
        `reconfigure(other_senses={"audio": {"router": "attended"}})`.

        Raises:
            WingsError: another field, a bad value, or a prefix of another length than the model's;
                the model is unchanged then.
        """
        for name in changes:
            if name not in RECONFIGURABLE:
                raise WingsError(
                    f"'{name}' cannot be reconfigured: give one of {', '.join(RECONFIGURABLE)}."
                )
        if "other_senses" in changes:
            changes["other_senses"] = self._changed_senses(changes["other_senses"])
        before = {name: getattr(self.config, name) for name in changes}
        length = before.get("prefix_length")
        if length and changes["prefix_length"] not in (0, length):
            raise WingsError(
                f"The model has a prefix of {length} keys, which cannot become one of "
                f"{changes['prefix_length']!r}: keep its length, or drop it with prefix_length=0 "
                "first."
            )
        had, lora = self.config.adapters, changes.get("lora")
        if had is not None and lora is not None and not had.same_weights(LoraOptions.of(lora)):
            raise WingsError(
                f"The model has adapters of rank {had.rank} on "
                f"{', '.join(had.targets or ('all linear layers',))}, which cannot change shape: "
                f"keep lora.rank and lora.targets, or drop them with lora=None first."
            )
        if "learners" in changes:
            changes["learners"] = kept_in_place(changes["learners"], before["learners"])
        try:
            for name, value in changes.items():
                setattr(self.config, name, value)
            self.config.validate()
            attach_wings(self.model.language_model, self.config)
        except WingsError:
            for name, value in before.items():
                setattr(self.config, name, value)
            raise

    def _changed_senses(self, changes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict]:
        """The further senses with some of their fields changed."""
        changed = {name: dict(fields) for name, fields in self.config.other_senses.items()}
        for name, fields in changes.items():
            if name not in changed:
                raise WingsError(
                    f"The model has no sense {name!r} to reconfigure; it has "
                    f"{', '.join(map(repr, changed)) or 'images alone'}."
                )
            for field in fields:
                if field not in OF_SENSES:
                    raise WingsError(
                        f"'{field}' of {name!r} cannot be reconfigured: give one of "
                        f"{', '.join(OF_SENSES)}."
                    )
            changed[name] |= fields
            if fields.get("learners") is not None:
                before = self.config.senses[name].learners
                changed[name]["learners"] = kept_in_place(fields["learners"], before)
        return changed

    def set_gate(
        self, *, gain: float | None = None, tau: float | None = None, sense: str | None = None
    ) -> None:
        """Sets the attended routers of all blocks, which save it with the checkpoint.

        A router that was put on a finished model is fresh; see `wings.layers.router`::

            model.reconfigure(router="attended", gate_shape="hill")
            model.set_gate(tau=0.2)

        Args:
            gain: of the shape `"tanh"`: the weight is tanh(gain m) for a mass m on image tokens.
            tau: of the shape `"hill"`: the mass at which a learner has half its weight.
            sense: whose routers are set; None for those of all senses and the adapters' gates.

        Raises:
            WingsError: a sense that the model does not have, no attended router, routers of both
                shapes, not exactly one value, the value of another shape, or one that is not
                positive.
        """
        senses = self.config.senses
        if sense is not None and sense not in senses:
            raise WingsError(f"The model has no sense {sense!r}; it has {', '.join(senses)}.")
        router_name = None if sense is None else senses[sense].router_name
        routers = [
            part
            for name, part in self.named_modules()
            if isinstance(part, AttendedRouter) and router_name in (None, name.rpartition(".")[2])
        ]
        if not routers:
            raise WingsError(
                "The model has no attended router to set: call reconfigure(router='attended') "
                "first."
            )
        shape, *others = {router.shape for router in routers}
        if others:
            raise WingsError(
                "The gates of the model's senses have different shapes: set those of one sense at "
                "a time, with sense=."
            )
        name = "tau" if shape == "hill" else "gain"
        value, other = (tau, gain) if name == "tau" else (gain, tau)
        if value is None or other is not None:
            raise WingsError(
                f"A gate of the shape '{shape}' has a {name}: give {name} alone, or change the "
                f"shape with reconfigure(gate_shape=...)."
            )
        if not 0 < value < float("inf"):
            raise WingsError(f"{name} is {value}, but must be positive and finite.")
        for router in routers:
            router.set(value)

    @contextlib.contextmanager
    def without_wings(self) -> Iterator[None]:
        """Runs passes without learners and router: on text they equal the LLM's, bit by bit.

        Image features still enter through the projector. A cache is valid on one side only, with
        learners or without. Passes of other threads are not affected.
        """
        with without_wings(self.model):
            yield

    def extract_language_model(self) -> PreTrainedModel:
        """Returns a copy of the language model alone, as the causal LM it came from.

        Its tokenizer is `WingsProcessor.extract_tokenizer`; a saved folder needs both, which
        `wings.model.language_model.save_language_model` and `wings extract` write.

        Raises:
            WingsError: its weights are quantised.
        """
        if is_quantized(self):
            raise WingsError(
                "The language model is quantised, so it cannot be taken out: load the checkpoint "
                "that was quantised, without quantization_config."
            )
        causal_lm = extract_causal_lm(self.model.language_model, self.lm_head, self.config)
        causal_lm.generation_config = copy.deepcopy(self.generation_config)
        return causal_lm


def without_first(
    labels: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None
) -> Tensor:
    """Returns labels `[B, T]` with -100 at the first token of every sequence.

    Nothing, padding or another packed sequence is before it, and none of these should predict it.
    """
    if position_ids is not None:
        first = position_ids == 0
    elif attention_mask is not None:
        real = attention_mask.bool()
        first = real & (real.long().cumsum(1) == 1)
    else:
        return labels
    return labels.masked_fill(first[:, -labels.shape[1] :].to(labels.device), -100)


def kept_in_place(learners: Iterable[str], before: tuple[str, ...]) -> tuple[str, ...]:
    """The learners in an order in which those of `before` keep their place.

    A router has one output a learner, in this order.
    """
    return tuple(sorted(learners, key=lambda name: (*before, name).index(name)))


# Group of the parameters of a block's wings that are of no sense.
PARTS = {"prefix": "prefix", "lora_a": "lora", "lora_b": "lora", "lora_router": "router"}


def part_of(name: str) -> str:
    """The group of a parameter, by its name."""
    if ".wings." in name:
        part = name.split(".wings.")[1].split(".")[0]
        return PARTS.get(part) or (part if part.endswith("router") else f"{part}_learners")
    if name.startswith("model.") and not name.startswith("model.language_model."):
        return name.split(".")[1]
    return "language_model"


def parts_of(sense: Sense) -> list[str]:
    """The groups of the parameters of a sense, in order."""
    learners = [f"{sense.module_of(name)}_learners" for name in (sense.name, "text")]
    return [sense.encoder_name, sense.projector_name, *learners, sense.router_name]


# At import, before any weights are loaded: with a release that nobody tested, results are proven.
check_untested_releases(WingsForCausalLM)

register_model(WingsConfig, WingsModel, WingsForCausalLM)
name_for_servers(WingsConfig.model_type, WingsForCausalLM.__name__)
