"""Initialisation, loading and names of weights in transformers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import LlamaModel, PreTrainedModel
from transformers import initialization as init
from transformers.initialization import no_init_weights

from ..errors import WingsError
from .contract import Contract
from .tiny import tiny_config, tiny_model

__all__ = ["init", "no_init_weights"]

# The mark that transformers puts on modules and tensors that are initialised.
_DRAWN = "_is_hf_initialized"
# Names under which a module gets its cache.
_CACHES = ["past_key_values", "cache"]


def mark_as_drawn(module: nn.Module) -> None:
    """Marks a module and all within it as initialised, so that nothing is drawn again."""
    for part in module.modules():
        setattr(part, _DRAWN, True)


def checkpoint_blocks(model: PreTrainedModel, enable: bool) -> None:
    """Switches gradient checkpointing of all blocks; the method has a new name since 5.24."""
    word = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    getattr(model, f"{word}_checkpointing_{'enable' if enable else 'disable'}")()


class ModelHooks(PreTrainedModel):
    """The private members of `PreTrainedModel` that a model here sets, under plain names."""

    # A model that composes others: each part chooses its own attention.
    _supports_sdpa = True
    _supports_attention_backend = True
    # Big-model hooks of accelerate leave a cache on the device where it was made.
    _skip_keys_device_placement = _CACHES

    def draw_own_weights(self) -> None:
        """Called where a model is built or loaded, before anything else draws weights."""

    def on_gradient_checkpointing(self, enable: bool) -> None:
        """Called when gradient checkpointing is switched on or off."""

    def tie_head(self, table: str) -> None:
        """Names the weights that are one where `config.tie_word_embeddings` is set."""
        self._tied_weights_keys = {"lm_head.weight": table}

    def keep_whole(self, decoder: PreTrainedModel) -> None:
        """Keeps on one device what the decoder keeps on one device."""
        self._no_split_modules = list(decoder._no_split_modules or [])

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: parts draw their own weights when they are made."""

    def initialize_weights(self) -> None:
        """Own weights first; then those of each part that is a model, in its own way.

        A part's initialisation walks over all of its modules, learners too: these are marked as
        drawn by then. It is called on the part itself: from outside of transformers' own models
        it would pass over modules whose only tensors are buffers of their children.
        """
        self.draw_own_weights()
        for module in self.modules():
            if isinstance(module, PreTrainedModel) and not isinstance(module, ModelHooks):
                module.initialize_weights()
        super().initialize_weights()

    def _set_gradient_checkpointing(
        self,
        enable: bool = True,
        gradient_checkpointing_func: Callable = checkpoint,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Called by every way of switching checkpointing; refuses the reentrant kind."""
        if isinstance(gradient_checkpointing_func, partial) and (
            gradient_checkpointing_func.keywords.get("use_reentrant")
        ):
            raise WingsError(
                "Gradient checkpointing with use_reentrant=True would lose the gradients of the "
                "image features that learners read: leave it out or set it to False."
            )
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, *args, **kwargs)
        self.on_gradient_checkpointing(enable)


def _check_drawing() -> None:
    with torch.random.fork_rng(devices=[]):
        decoder = tiny_model(LlamaModel)
        for part in decoder.modules():
            setattr(part, _DRAWN, False)
        mark_as_drawn(decoder.get_submodule("layers.0.mlp"))
        kept = decoder.get_parameter("layers.0.mlp.up_proj.weight")
        drawn = decoder.get_parameter("layers.0.self_attn.q_proj.weight")
        before = [kept.clone(), drawn.clone()]
        decoder.initialize_weights()
        assert torch.equal(kept, before[0]), "a module that is marked as drawn is drawn anew"
        assert not torch.equal(drawn, before[1]), "a module that is not marked is not drawn"
        marked = nn.Parameter(torch.full((2,), 7.0))
        setattr(marked, _DRAWN, True)
        init.zeros_(marked)
        assert marked.sum() == 14, "a marked tensor is drawn anew"
        drawn_so_far = torch.random.get_rng_state()
        with no_init_weights():
            nn.Linear(4, 4)
            LlamaModel(tiny_config())
        same = torch.equal(torch.random.get_rng_state(), drawn_so_far)
        assert same, "no_init_weights lets a model draw its weights"


def _check_checkpointing() -> None:
    calls: list[bool] = []

    class Watched(LlamaModel):
        def _set_gradient_checkpointing(
            self, enable: bool = True, *args: Any, **kwargs: Any
        ) -> None:
            calls.append(enable)
            super()._set_gradient_checkpointing(enable, *args, **kwargs)

    decoder = tiny_model(Watched)
    checkpoint_blocks(decoder, True)
    checkpoint_blocks(decoder, False)
    assert calls == [True, False], "gradient checkpointing is switched by another member"


CONTRACTS = (
    Contract(
        "transformers",
        "5.17",
        "a module marked with _is_hf_initialized keeps its weights in initialize_weights(), a "
        "marked tensor keeps its values in transformers.initialization, and no_init_weights stops "
        "torch from drawing any",
        (
            "transformers:PreTrainedModel.initialize_weights",
            "transformers:PreTrainedModel._init_weights",
            "transformers.initialization:no_init_weights",
            *(
                f"transformers.initialization:{name}(tensor)"
                for name in ("trunc_normal_", "normal_", "zeros_", "constant_")
            ),
        ),
        check=_check_drawing,
    ),
    Contract(
        "transformers",
        "5.17",
        "every way of switching gradient checkpointing ends in _set_gradient_checkpointing",
        (
            "transformers:PreTrainedModel._set_gradient_checkpointing"
            "(enable, gradient_checkpointing_func)",
        ),
        check=_check_checkpointing,
    ),
    Contract(
        "transformers",
        "5.17",
        "_tied_weights_keys maps a tied tensor to the one it shares, _no_split_modules names what "
        "stays on one device, and _skip_keys_device_placement what is never moved",
        (
            "transformers:PreTrainedModel._tied_weights_keys",
            "transformers:PreTrainedModel._no_split_modules",
            "transformers:PreTrainedModel._skip_keys_device_placement",
            "transformers:PreTrainedModel._supports_sdpa",
            "transformers:PreTrainedModel._supports_attention_backend",
        ),
    ),
)
