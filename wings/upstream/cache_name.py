"""The name of the cache argument: `past_key_values` before transformers 5.24, `cache` since."""

import inspect
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import ModelOutput

from ..errors import WingsError
from .contract import Contract

NAMES = ("cache", "past_key_values")
_FIELDS = {field.name for field in fields(CausalLMOutputWithPast)}
# The installed release's name: in outputs, and in what `generate` hands from step to step.
NAME = next(name for name in NAMES if name in _FIELDS)


def cache_name(model: nn.Module) -> str:
    """The name under which `model.forward` takes a cache.

    Model code that does not come with transformers may keep the old name.
    """
    parameters = inspect.signature(type(model).forward).parameters
    return next((name for name in (NAME, *NAMES) if name in parameters), NAME)


def cache_of(output: ModelOutput) -> Cache | None:
    """The cache in an output of a model of transformers; None where it has none."""
    return getattr(output, NAME, None)


def take_cache(keywords: dict[str, Any]) -> Cache | None:
    """Removes both names from `keywords` and returns the cache that they hold.

    Raises:
        WingsError: two different caches.
    """
    return one_cache(*(keywords.pop(name, None) for name in NAMES))


def one_cache(cache: Cache | None, past_key_values: Cache | None) -> Cache | None:
    """The cache that was given under one of its two names, or None.

    Raises:
        WingsError: two different caches.
    """
    if cache is None or cache is past_key_values:
        return past_key_values
    if past_key_values is None:
        return cache
    raise WingsError(
        "'cache' and 'past_key_values' are two names of one argument, but hold different caches: "
        "give one of them."
    )


class BothCacheNames:
    """Put before an output class of transformers: its cache reads under both names."""

    if TYPE_CHECKING:
        cache: Cache | None
        past_key_values: Cache | None

    elif NAME == "cache":

        @property
        def past_key_values(self) -> Cache | None:
            """The cache, under its name before transformers 5.24."""
            return self.cache

    else:

        @property
        def cache(self) -> Cache | None:
            """The cache, under its name since transformers 5.24."""
            return self.past_key_values


CONTRACTS = (
    Contract(
        "transformers",
        "5.17",
        "decoders take their cache as `cache` since 5.24 and as `past_key_values` before, which is "
        "also its name in their outputs and in the arguments that generate() prepares",
        (
            f"transformers.models.llama.modeling_llama:LlamaModel.forward({NAME})",
            f"transformers.models.gemma2.modeling_gemma2:Gemma2Model.forward({NAME})",
            f"transformers.generation.utils:GenerationMixin.prepare_inputs_for_generation({NAME})",
            f"transformers.modeling_outputs:BaseModelOutputWithPast({NAME})",
        ),
    ),
)
