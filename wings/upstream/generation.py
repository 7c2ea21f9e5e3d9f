"""The private steps of transformers' `generate` that a model with its own cache overrides."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from transformers import (
    Cache,
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    LlamaForCausalLM,
    LogitsProcessorList,
    PreTrainedModel,
)
from transformers.generation.candidate_generator import CandidateGenerator

from .cache_name import NAME
from .contract import Contract
from .tiny import tiny_model

if TYPE_CHECKING:

    class _Generating(PreTrainedModel, GenerationMixin):
        """A model that generates; transformers types `self` as a protocol it does not meet."""

        def _expand_inputs_for_generation(self, *args: Any, **kwargs: Any) -> Any: ...

        def _prepare_cache_for_generation(self, *args: Any, **kwargs: Any) -> Any: ...

        def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList: ...

        def _get_candidate_generator(self, *args: Any, **kwargs: Any) -> CandidateGenerator: ...

        def _validate_model_kwargs(self, model_kwargs: dict[str, Any]) -> None: ...

else:
    _Generating = GenerationMixin


class TextCandidates(CandidateGenerator):
    """Drafts the next tokens from text alone; `inner` does it."""

    def __init__(self, inner: CandidateGenerator, text_ids: Callable[[Tensor], Tensor]) -> None:
        self.inner = inner
        self.text_ids = text_ids

    def get_candidates(self, input_ids: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Returns `input_ids` [1, T] with drafted tokens after them, and their scores."""
        ids, scores = self.inner.get_candidates(cast(Any, self.text_ids(input_ids)), **kwargs)
        return torch.cat([input_ids, ids[:, input_ids.shape[1] :]], 1), scores

    def update_candidate_strategy(self, input_ids: Any, scores: Any, matches: int) -> None:
        """Tells the inner one how many tokens were accepted."""
        self.inner.update_candidate_strategy(cast(Any, self.text_ids(input_ids)), scores, matches)


class GenerationHooks(_Generating):
    """`GenerationMixin` whose private steps call methods with plain names."""

    def make_cache(self, implementation: str | None, room: int) -> Cache:
        """Makes a cache for a call of `generate` without one.

        Args:
            implementation: `cache_implementation` as the caller gave it.
            room: tokens the call may reach.
        """
        raise TypeError(f"{type(self).__name__} must define make_cache.")

    def item_inputs(self) -> tuple[str, ...]:
        """Names of the tensors with all items of a sense, such as pixels of images."""
        return ("pixel_values",)

    def repeat_items(self, name: str, values: Tensor, input_ids: Tensor, times: int) -> Tensor:
        """Repeats items `[N, ...]` of the tensor `name` as the rows of beams are repeated."""
        raise TypeError(f"{type(self).__name__} must define repeat_items.")

    def wrap_processors(self, processors: LogitsProcessorList) -> LogitsProcessorList:
        """The logits processors of a call."""
        return processors

    def static_mask(self, attention_mask: Tensor, cache: Cache) -> Tensor:
        """The mask of a step with a static cache, for a mask `[B, tokens so far]`."""
        return attention_mask

    def _expand_inputs_for_generation(  # type: ignore[override]  # theirs is static before 5.24
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor | None, dict[str, Any]]:
        items = {name: model_kwargs.pop(name, None) for name in self.item_inputs()}
        items = {name: values for name, values in items.items() if values is not None}
        if expand_size > 1 and input_ids is not None:
            items = {
                name: self.repeat_items(name, values, input_ids, expand_size)
                for name, values in items.items()
            }
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder,
            input_ids=input_ids, **model_kwargs,
        )  # fmt: skip
        return input_ids, model_kwargs | items

    def _validate_model_kwargs(self, model_kwargs: dict[str, Any]) -> None:
        # Items of further senses are no arguments by name.
        items = self.item_inputs()
        super()._validate_model_kwargs({k: v for k, v in model_kwargs.items() if k not in items})

    def _prepare_cache_for_generation(
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        generation_mode: Any,
        batch_size: int,
        max_cache_length: int,
    ) -> Any:
        if model_kwargs.get(NAME) is None and generation_config.use_cache is not False:
            kind = generation_config.cache_implementation
            model_kwargs[NAME] = self.make_cache(kind, max_cache_length)
            return None
        return super()._prepare_cache_for_generation(
            generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
        )

    def create_masks_for_generate(
        self, attention_mask: Tensor | None, **kwargs: Any
    ) -> Tensor | None:
        """Called with a static cache; transformers would make masks `[B, 1, T, S]`."""
        if attention_mask is None:
            return None
        return self.static_mask(attention_mask, kwargs[NAME])

    def text_ids(self, input_ids: Tensor) -> Tensor:
        """Ids without those that are no text, for whatever reads prompts as text."""
        return input_ids

    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList:
        if isinstance(prompt := kwargs.get("encoder_input_ids"), Tensor) and prompt.ndim == 2:
            kwargs["encoder_input_ids"] = self.text_ids(prompt)
        return self.wrap_processors(super()._get_logits_processor(*args, **kwargs))

    def _get_candidate_generator(self, *args: Any, **kwargs: Any) -> "TextCandidates":
        for name in ("input_ids", "inputs_tensor"):
            if isinstance(prompt := kwargs.get(name), Tensor) and prompt.ndim == 2:
                kwargs[name] = self.text_ids(prompt)
        # Whatever drafts does so without items; the model itself accepts or rejects its tokens.
        items = self.item_inputs()
        kept = {k: v for k, v in kwargs["model_kwargs"].items() if k not in items}
        kwargs["model_kwargs"] = kept
        return TextCandidates(super()._get_candidate_generator(*args, **kwargs), self.text_ids)


def _check_steps() -> None:
    calls: list[str] = []

    class Watched(GenerationHooks, LlamaForCausalLM):
        def make_cache(self, implementation: str | None, room: int) -> Cache:
            calls.append(f"cache of {room}")
            assert implementation is None, "a kind of cache is asked for that nobody named"
            return DynamicCache(config=self.config)

        def item_inputs(self) -> tuple[str, ...]:
            return ("pixel_values", "tone_values")

        def repeat_items(self, name: str, values: Tensor, input_ids: Tensor, times: int) -> Tensor:
            calls.append(f"{name} times {times}")
            return values.repeat_interleave(times, 0)

        def wrap_processors(self, processors: LogitsProcessorList) -> LogitsProcessorList:
            calls.append("processors")
            return processors

        def forward(self, *args: Any, pixel_values: Tensor | None = None, **kwargs: Any) -> Any:
            ids, tones = kwargs["input_ids"], kwargs.pop("tone_values", None)
            given = ("images", pixel_values), ("tones", tones)
            found = [name for name, values in given if values is not None]
            calls.append(" ".join([f"{ids.shape[1]} tokens", *found]))
            assert kwargs.get(NAME) is not None, "the cache is not handed to forward"
            return super().forward(*args, **kwargs)

    model = tiny_model(Watched)
    given = {
        "input_ids": torch.tensor([[1, 2, 3]]),
        "attention_mask": torch.ones(1, 3, dtype=torch.long),
        "pixel_values": torch.zeros(1, 3, 2, 2),
        "tone_values": torch.zeros(1, 4),
    }
    model.generate(**given, max_new_tokens=2, num_beams=2, do_sample=False)
    steps = [call for call in calls if "tokens" in call]
    # Who prepares a step takes items out of further ones that transformers does not know.
    assert steps[0] == "3 tokens images tones", f"the steps were {steps}"
    assert steps[1].startswith("1 tokens") and "images" not in steps[1], f"the steps were {steps}"
    for name in ("pixel_values", "tone_values"):
        assert f"{name} times 2" in calls, "rows are repeated for beams by another member"
    assert "cache of 4" in calls, f"the cache is made by another member ({calls})"
    assert "processors" in calls, "logits processors are made by another member"


def _check_drafts() -> None:
    asked: list[list[int]] = []

    class Watched(GenerationHooks, LlamaForCausalLM):
        def make_cache(self, implementation: str | None, room: int) -> Cache:
            return DynamicCache(config=self.config)

        def text_ids(self, input_ids: Tensor) -> Tensor:
            asked.append(input_ids[0].tolist())
            return input_ids

    model = tiny_model(Watched)
    ids = torch.tensor([[1, 2, 3, 2]])
    plain: dict[str, Any] = {"max_new_tokens": 2, "do_sample": False}
    expected = model.generate(ids, **plain)
    assert ids[0].tolist() in asked, "the prompt's processors are made by another member"
    asked.clear()
    found = model.generate(ids, **plain, prompt_lookup_num_tokens=2)
    assert torch.equal(found, expected), "drafted tokens change what is generated"
    assert len(asked) > 1, "tokens are drafted by another member"


def _check_static_masks() -> None:
    asked: list[tuple[int, ...]] = []

    class Watched(GenerationHooks, LlamaForCausalLM):
        def make_cache(self, implementation: str | None, room: int) -> Cache:
            from transformers import StaticCache

            return StaticCache(config=self.config, max_cache_len=room)

        def static_mask(self, attention_mask: Tensor, cache: Cache) -> Tensor:
            asked.append(tuple(attention_mask.shape))
            return attention_mask

    model = tiny_model(Watched)
    ids, mask = torch.tensor([[0, 2, 3]]), torch.tensor([[0, 1, 1]])
    model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=2, do_sample=False,
        cache_implementation="static", disable_compile=True,
    )  # fmt: skip
    assert asked == [(1, 3), (1, 4)], f"masks of a static cache were asked for as {asked}"


CONTRACTS = (
    Contract(
        "transformers",
        "5.17",
        "generate() makes a missing cache in _prepare_cache_for_generation, repeats rows in "
        "_expand_inputs_for_generation, makes logits processors in _get_logits_processor, and "
        "hands pixel_values to the first step only",
        (
            "transformers:GenerationMixin._prepare_cache_for_generation(generation_config, "
            "model_kwargs, generation_mode, batch_size, max_cache_length)",
            "transformers:GenerationMixin._expand_inputs_for_generation(expand_size, "
            "is_encoder_decoder, input_ids)",
            "transformers:GenerationMixin._get_logits_processor(logits_processor)",
            "transformers:GenerationMixin._validate_model_kwargs(model_kwargs)",
            "transformers:GenerationMixin.prepare_inputs_for_generation(input_ids)",
        ),
        check=_check_steps,
    ),
    Contract(
        "transformers",
        "5.17",
        "generate() makes what drafts tokens in _get_candidate_generator and hands prompts to "
        "processors as encoder_input_ids, both by keywords; drafts never change the result",
        (
            "transformers:GenerationMixin._get_candidate_generator(input_ids, inputs_tensor, "
            "model_kwargs)",
            "transformers:GenerationMixin._get_logits_processor(encoder_input_ids)",
            "transformers.generation.candidate_generator:CandidateGenerator.get_candidates"
            "(input_ids)",
        ),
        check=_check_drafts,
    ),
    Contract(
        "transformers",
        "5.17",
        "a step with a static cache asks the model's create_masks_for_generate for its mask, by "
        "keywords, with the mask so far and the cache among them",
        ("transformers.masking_utils:create_masks_for_generate(attention_mask, " + NAME + ")",),
        check=_check_static_masks,
    ),
)
