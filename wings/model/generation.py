"""`generate` for rows with images: caches, images of a step, padding and logits."""

from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache, LogitsProcessorList, ProcessorMixin

from wings.cache.wings_cache import WingsCache, WingsStaticCache
from wings.config import WingsConfig
from wings.errors import WingsError
from wings.upstream.cache_name import NAME, take_cache
from wings.upstream.causal_lm import OwnCausalLM
from wings.upstream.generation import GenerationHooks


class ImageBlindProcessors(LogitsProcessorList):
    """Logits processors without image tokens in their input, and with no score for them.

    The image token's id may be past the vocabulary, where a repetition penalty would index it. An
    image cannot be generated.
    """

    def __init__(self, processors: LogitsProcessorList, image_token_id: int) -> None:
        super().__init__(processors)
        self.image_token_id = image_token_id

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """ids `[B, T]`, scores `[B, V]` -> `[B, V]`."""
        if self.image_token_id < scores.shape[-1]:
            scores = scores.clone()
            scores[:, self.image_token_id] = -torch.inf
        is_image = input_ids == self.image_token_id
        replacement = scores.argmin(-1, keepdim=True).expand_as(input_ids)
        ids = cast(torch.LongTensor, torch.where(is_image, replacement, input_ids))
        return super().__call__(ids, scores, **kwargs)


class WingsGenerationMixin(GenerationHooks):
    """`generate` for rows with images: padding on either side, beams, longer conversations."""

    config: WingsConfig
    own: OwnCausalLM
    _static_capacity = 0

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Runs transformers' `generate`; padding on the right is moved to the left first.

        New tokens must follow the last real one, so rows come back with their padding on the left
        of all tokens that no cache holds yet.
        """
        cache = take_cache(kwargs)
        if cache is not None:
            kwargs[NAME] = cache
        if isinstance(kwargs.get("tokenizer"), ProcessorMixin):
            # transformers serve hands over what it has loaded; stop strings need the tokenizer.
            kwargs["tokenizer"] = kwargs["tokenizer"].tokenizer
        name = "input_ids" if inputs is None else None
        ids = kwargs.get("input_ids") if inputs is None else inputs
        mask = kwargs.get("attention_mask")
        if ids is not None and mask is not None and mask.shape == ids.shape:
            held = 0 if cache is None else cache.get_seq_length()
            ids, kwargs["attention_mask"] = pad_left(ids, mask, held)
            if name is None:
                inputs = ids
            else:
                kwargs[name] = ids
        return super().generate(inputs, *args, **kwargs)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Returns the inputs of one step: of all images, those that begin in the step's tokens."""
        # transformers looks for `inputs_embeds` in this signature.
        kwargs |= {"pixel_values": pixel_values, "inputs_embeds": inputs_embeds}
        if "prepare_inputs_for_generation" in self.own.replaces:
            inputs = self.own.prepare_inputs(self, input_ids, **kwargs)
            self._validate_kept(input_ids, kwargs.get(NAME), inputs)
        else:
            inputs = super().prepare_inputs_for_generation(input_ids, **kwargs)
        if inputs["input_ids"] is None:
            # The first step of a prompt of embeddings.
            return inputs
        step = inputs["input_ids"].shape[1]
        if inputs.get("pixel_values") is not None and step < input_ids.shape[1]:
            inputs["pixel_values"] = self._new_images(input_ids, step, inputs["pixel_values"])
        return inputs

    def _validate_kept(
        self, input_ids: Tensor, cache: Cache | None, inputs: dict[str, Any]
    ) -> None:
        """Raises a `WingsError` if the family drops a cache that holds images.

        A family whose positions change at some length computes the whole row again there, and
        `generate` hands images to the first step only.
        """
        dropped = cache is not None and cache.get_seq_length() and inputs.get(NAME) is None
        if not dropped or inputs.get("pixel_values") is not None:
            return
        if bool((input_ids == self.config.image_token_id).any()):
            raise WingsError(
                f"{self.own.kind.__name__} computes the whole row anew at {input_ids.shape[1]} "
                f"tokens, where generate no longer has its images: call generate again with all "
                f"tokens and pixel_values, or with use_cache=False."
            )

    def _new_images(self, input_ids: Tensor, step: int, pixel_values: Tensor) -> Tensor | None:
        """Selects the images whose first token is among the last `step` ones.

        A caller may give the images of the whole rows, or only the new ones.
        """
        is_image = input_ids == self.config.image_token_id
        per_image = self.config.image_seq_length
        total = (is_image.sum(1) // per_image).tolist()
        before = (-(-is_image[:, :-step].sum(1) // per_image)).tolist()
        fresh = [all_ - old for all_, old in zip(total, before, strict=True)]
        if len(pixel_values) == sum(fresh) != sum(total):
            return pixel_values
        rows = pixel_values.split(total) if len(pixel_values) == sum(total) else None
        if rows is None:
            raise WingsError(
                f"pixel_values has {len(pixel_values)} images, but the conversation has "
                f"{sum(total)}, {sum(fresh)} of them new: give all of them or the new ones."
            )
        chosen = torch.cat([row[old:] for row, old in zip(rows, before, strict=True)])
        return chosen if len(chosen) else None

    def repeat_images(self, pixel_values: Tensor, input_ids: Tensor, times: int) -> Tensor:
        """Repeats each row's images as a group, for rows that are repeated for beams."""
        is_image = input_ids == self.config.image_token_id
        counts = (is_image.sum(1) // self.config.image_seq_length).tolist()
        if sum(counts) != len(pixel_values):
            return pixel_values
        groups = pixel_values.split(counts)
        return torch.cat([copy for group in groups for copy in [group] * times])

    def make_cache(self, implementation: str | None, room: int) -> Cache:
        """Makes a cache that also holds the learners' part.

        Raises:
            WingsError: another kind of cache.
        """
        if implementation not in (None, "dynamic", "static"):
            raise WingsError(
                f"cache_implementation is '{implementation}', but a Wings model decodes with a "
                f"cache of its own: leave it out or set it to 'static'."
            )
        if implementation != "static":
            return WingsCache(self.config)
        # At least the capacity of an earlier call, so that nothing is compiled again.
        self._static_capacity = max(room, self._static_capacity)
        return WingsStaticCache(self.config, self._static_capacity)

    def static_mask(self, attention_mask: Tensor, cache: Cache) -> Tensor:
        """Pads the mask `[B, S]` to the capacity of a static cache: one shape for all steps.

        transformers' own mask `[B, 1, T, S]` lacks what the learners need.
        """
        if not isinstance(cache, WingsStaticCache):
            # The forward refuses it, with the reason.
            return attention_mask
        return torch.nn.functional.pad(attention_mask, (0, cache.room - attention_mask.shape[1]))

    def text_ids(self, input_ids: Tensor) -> Tensor:
        """Ids `[B, T]` with a token of text in place of image tokens."""
        image = self.config.image_token_id
        return input_ids.masked_fill(input_ids == image, 1 if image == 0 else 0)

    def wrap_processors(self, processors: LogitsProcessorList) -> LogitsProcessorList:
        """Wraps processors so that they see no image token."""
        return ImageBlindProcessors(processors, self.config.image_token_id)


def pad_left(input_ids: Tensor, attention_mask: Tensor, held: int = 0) -> tuple[Tensor, Tensor]:
    """Moves the padding of rows `[B, T]` to the left, and of their masks.

    The first `held` tokens of each row are in a cache and stay where they are.
    """
    if bool(attention_mask[:, -1].all()):
        return input_ids, attention_mask
    # Tokens that stay sort as -1: before padding, in the order they have.
    rank = attention_mask.to(torch.long, copy=True)
    rank[:, :held] = -1
    order = rank.argsort(dim=1, stable=True)
    return input_ids.gather(1, order), attention_mask.gather(1, order)
