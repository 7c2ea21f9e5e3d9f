"""`generate` for rows with images and other items: caches, items of a step, padding, logits."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache, LogitsProcessorList, ProcessorMixin

from wings.cache.wings_cache import WingsCache, WingsStaticCache
from wings.config import WingsConfig
from wings.errors import WingsError
from wings.sense import Sense, Words
from wings.upstream.cache_name import NAME, take_cache
from wings.upstream.causal_lm import OwnCausalLM
from wings.upstream.generation import GenerationHooks

PIXELS = "pixel_values"


class ItemBlindProcessors(LogitsProcessorList):
    """Logits processors without tokens of items in their input, and with no score for them.

    Such a token's id may be past the vocabulary, where a repetition penalty would index it. No item
    can be generated.
    """

    def __init__(self, processors: LogitsProcessorList, token_ids: Sequence[int]) -> None:
        super().__init__(processors)
        self.token_ids = token_ids

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """ids `[B, T]`, scores `[B, V]` -> `[B, V]`."""
        known = [token_id for token_id in self.token_ids if token_id < scores.shape[-1]]
        if known:
            scores = scores.clone()
            scores[:, known] = -torch.inf
        replacement = scores.argmin(-1, keepdim=True).expand_as(input_ids)
        ids = input_ids
        for token_id in self.token_ids:
            ids = torch.where(ids == token_id, replacement, ids)
        return super().__call__(cast(torch.LongTensor, ids), scores, **kwargs)


class WingsGenerationMixin(GenerationHooks):
    """`generate` for rows with items: padding on either side, beams, longer conversations."""

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
        """Returns the inputs of one step: of all items, those that begin in the step's tokens."""
        # transformers looks for `inputs_embeds` in this signature.
        kwargs |= {"pixel_values": pixel_values, "inputs_embeds": inputs_embeds}
        # It knows the pixels of images, and hands them to the first step only; so it is with items
        # of other senses here.
        others = {n: kwargs.pop(n) for n in self.item_inputs() if n != PIXELS and n in kwargs}
        if "prepare_inputs_for_generation" in self.own.replaces:
            inputs = self.own.prepare_inputs(self, input_ids, **kwargs)
            self._validate_kept(input_ids, kwargs.get(NAME), inputs)
        else:
            inputs = super().prepare_inputs_for_generation(input_ids, **kwargs)
        if kwargs.get("is_first_iteration") or not kwargs.get("use_cache", True):
            inputs |= others
        if inputs["input_ids"] is None:
            # The first step of a prompt of embeddings.
            return inputs
        step = inputs["input_ids"].shape[1]
        if step < input_ids.shape[1]:
            for sense in self.config.senses.values():
                values = inputs.get(sense.values_name)
                if values is not None:
                    inputs[sense.values_name] = self._new_items(sense, input_ids, step, values)
        return inputs

    def _validate_kept(
        self, input_ids: Tensor, cache: Cache | None, inputs: dict[str, Any]
    ) -> None:
        """Raises a `WingsError` if the family drops a cache that holds items.

        A family whose positions change at some length computes the whole row again there, and
        `generate` hands items to the first step only.
        """
        dropped = cache is not None and cache.get_seq_length() and inputs.get(NAME) is None
        if not dropped or any(inputs.get(name) is not None for name in self.item_inputs()):
            return
        for name, sense in self.config.senses.items():
            if bool((input_ids == sense.token_id).any()):
                raise WingsError(
                    f"{self.own.kind.__name__} computes the whole row anew at {input_ids.shape[1]} "
                    f"tokens, where generate no longer has its {Words.of(name).many}: call "
                    f"generate again with all tokens and {sense.values_name}, or with "
                    f"use_cache=False."
                )

    def _new_items(
        self, sense: Sense, input_ids: Tensor, step: int, values: Tensor
    ) -> Tensor | None:
        """Selects the items whose first token is among the last `step` ones.

        A caller may give the items of the whole rows, or only the new ones.
        """
        is_item = input_ids == sense.token_id
        per_item = sense.seq_length
        assert per_item is not None, "a model knows its encoders"
        total = (is_item.sum(1) // per_item).tolist()
        before = (-(-is_item[:, :-step].sum(1) // per_item)).tolist()
        fresh = [all_ - old for all_, old in zip(total, before, strict=True)]
        if len(values) == sum(fresh) != sum(total):
            return values
        rows = values.split(total) if len(values) == sum(total) else None
        if rows is None:
            raise WingsError(
                f"{sense.values_name} has {len(values)} {Words.of(sense.name).many}, but the "
                f"conversation has {sum(total)}, {sum(fresh)} of them new: give all of them or the "
                f"new ones."
            )
        chosen = torch.cat([row[old:] for row, old in zip(rows, before, strict=True)])
        return chosen if len(chosen) else None

    def item_inputs(self) -> tuple[str, ...]:
        """Names of the tensors with the items of each sense."""
        return tuple(sense.values_name for sense in self.config.senses.values())

    def repeat_items(self, name: str, values: Tensor, input_ids: Tensor, times: int) -> Tensor:
        """Repeats each row's items as a group, for rows that are repeated for beams."""
        (sense,) = (one for one in self.config.senses.values() if one.values_name == name)
        assert sense.seq_length is not None, "a model knows its encoders"
        counts = ((input_ids == sense.token_id).sum(1) // sense.seq_length).tolist()
        if sum(counts) != len(values):
            return values
        groups = values.split(counts)
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
        """Ids `[B, T]` with a token of text in place of those of items."""
        ids = self._token_ids()
        text = next(number for number in range(len(ids) + 1) if number not in ids)
        for token_id in ids:
            input_ids = input_ids.masked_fill(input_ids == token_id, text)
        return input_ids

    def wrap_processors(self, processors: LogitsProcessorList) -> LogitsProcessorList:
        """Wraps processors so that they see no token of an item."""
        return ItemBlindProcessors(processors, self._token_ids())

    def _token_ids(self) -> list[int]:
        return [sense.token_id for sense in self.config.senses.values()]


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
