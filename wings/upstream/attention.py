"""The attention of transformers' decoders: how it is registered, named and found."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    LlamaModel,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from .contract import Contract
from .tiny import tiny_model

AttentionFunction = Callable[..., tuple[Tensor, Any]]

__all__ = ["eager_mask", "sdpa_attention_forward", "sdpa_mask"]


def register_attention(name: str, attend: AttentionFunction, mask: Callable) -> None:
    """Lets a configuration name `attend` as its attention, with the masks that `mask` makes.

    Both must be registered: a name without a mask function gets no mask at all. The name must not
    contain "sdpa" or "flex_attention", substrings that transformers looks for.
    """
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, mask)


def registered_attention(config: PreTrainedConfig) -> AttentionFunction:
    """The attention function that a configuration names; it must name one."""
    return AttentionInterface()[config._attn_implementation]


def attention_name(config: PreTrainedConfig) -> str | None:
    """The attention that a configuration names; None where it has not chosen."""
    return config._attn_implementation


def name_attention(config: PreTrainedConfig, name: str | None) -> None:
    """Sets the attention of a configuration and of those within it, without a check.

    `PreTrainedModel.set_attn_implementation` would refuse names that are not its own.
    """
    config._attn_implementation = name


@contextmanager
def same_attention(config: PreTrainedConfig) -> Iterator[None]:
    """A context that restores the attention's name at its end."""
    before = attention_name(config)
    try:
        yield
    finally:
        name_attention(config, before)


def eager_attention_of(attention: type[nn.Module]) -> AttentionFunction | None:
    """The eager attention function of a family: a name in the file of its attention class."""
    return vars(sys.modules[attention.__module__]).get("eager_attention_forward")


def attention_classes(decoder: PreTrainedModel) -> tuple[type[nn.Module], ...]:
    """The classes whose second output a decoder records as `attentions`; () where it tells none."""
    recorded = decoder.can_record_outputs.get("attentions")
    entries = recorded if isinstance(recorded, list) else [recorded]
    return tuple(
        entry if isinstance(entry, type) else entry.target_class
        for entry in entries
        if entry is not None and not isinstance(entry, str)
    )


def block_index(attention: nn.Module) -> int:
    """The number of the block in which an attention module is."""
    return cast(int, attention.layer_idx)


def has_plain_masks(decoder: PreTrainedModel) -> bool:
    """True where a family's masks are only causal, windowed, padded or packed.

    transformers' flash attention takes the same kinds of masks as our kernels.
    """
    return decoder._supports_flash_attn


def _check_registered() -> None:
    seen: list[tuple[nn.Module, dict[str, Any]]] = []
    marker = object()

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any
    ) -> tuple[Tensor, Any]:
        assert query.shape == (1, 2, 3, 4) and key.shape == value.shape == (1, 1, 3, 4), (
            "query, key and value are not [B, heads, T, width]"
        )
        assert isinstance(mask, Tensor), "the registered mask function was not asked"
        seen.append((module, kwargs))
        return query.transpose(1, 2), marker

    register_attention("contract", attend, eager_mask)
    try:
        decoder = tiny_model(LlamaModel)
        name_attention(decoder.config, "contract")
        (attention,) = (m for m in decoder.modules() if isinstance(m, attention_classes(decoder)))
        assert block_index(attention) == 0, "an attention module does not know its block"
        outputs: list[Any] = []

        class Swapped(type(attention)):  # type: ignore[misc]  # a class that exists while running
            def forward(self, *args: Any, **kwargs: Any) -> Any:
                out = super().forward(*args, **kwargs)
                outputs.append(out[1])
                return out

        attention.__class__ = Swapped
        with torch.no_grad():
            decoder(torch.tensor([[1, 2, 3]]), use_cache=False, wings=marker)
    finally:
        for interface in (AttentionInterface, AttentionMaskInterface):
            interface._global_mapping.pop("contract", None)
    assert len(seen) == 1, "the function that the configuration names was not called"
    module, kwargs = seen[0]
    assert module is attention, "the attention module is not handed over first"
    assert kwargs.get("wings") is marker, "a keyword of the decoder's forward does not arrive"
    assert "scaling" in kwargs, "the scale of the scores is not handed over"
    assert outputs == [marker], "its second result is not the attention module's second output"


def _check_masks() -> None:
    decoder = tiny_model(LlamaModel, attn_implementation="sdpa")
    with torch.no_grad():
        ids, seen = torch.tensor([[1, 2, 3]]), torch.tensor([[0, 1, 1]])
        out = decoder(ids, attention_mask=seen, use_cache=False).last_hidden_state
        other = decoder(ids + torch.tensor([[5, 0, 0]]), attention_mask=seen, use_cache=False)
    assert torch.equal(out[:, 1:], other.last_hidden_state[:, 1:]), "padding is seen"


CONTRACTS = (
    Contract(
        "transformers",
        "5.17",
        "a function registered with AttentionInterface and AttentionMaskInterface is what a "
        "decoder calls whose configuration names it: with the module, query, key, value, mask and "
        "the keywords of the decoder's forward; its second result is the module's second output; "
        "and an attention module may change its class",
        (
            "transformers:AttentionInterface.register",
            "transformers:AttentionMaskInterface.register",
            "transformers:PreTrainedConfig._attn_implementation",
        ),
        check=_check_registered,
    ),
    Contract(
        "transformers",
        "5.17",
        "sdpa_attention_forward is the attention of decoders that name 'sdpa', and sdpa_mask and "
        "eager_mask make the masks of 'sdpa' and 'eager'",
        (
            "transformers.integrations.sdpa_attention:sdpa_attention_forward(module, query, key, "
            "value, attention_mask, dropout, scaling)",
            "transformers.masking_utils:sdpa_mask(allow_is_bidirectional_skip)",
            "transformers.masking_utils:eager_mask",
        ),
        check=_check_masks,
    ),
    Contract(
        "transformers",
        "5.17",
        "a family's eager attention is eager_attention_forward in the file of its attention class, "
        "which returns output and weights",
        tuple(
            f"transformers.models.{family}.modeling_{family}:eager_attention_forward(module, query,"
            " key, value, attention_mask)"
            for family in ("llama", "gemma2", "gpt_oss")
        ),
    ),
    Contract(
        "transformers",
        "5.17",
        "PreTrainedModel.can_record_outputs['attentions'] names the attention classes of a "
        "decoder, and _supports_flash_attn says whether its masks are plain ones",
        (
            "transformers:PreTrainedModel.can_record_outputs",
            "transformers:PreTrainedModel._supports_flash_attn",
        ),
    ),
)
