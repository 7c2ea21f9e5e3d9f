"""`WingsPreTrainedModel`: what the models share with transformers' own: weights, checkpointing."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from .config import WingsConfig
from .errors import WingsError
from .lorra import LoRRALearner
from .prefix import Prefix
from .router import AttendedRouter, ModalityRouter, PositionRouter
from .vision import VisionTower

# Parts of a block's wings that draw their own weights.
OF_WINGS = (LoRRALearner, PositionRouter, ModalityRouter, AttendedRouter, Prefix)


class WingsPreTrainedModel(PreTrainedModel):
    """What both models share: configuration, initialisation, what transformers may do with them."""

    config_class = WingsConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _skip_keys_device_placement = ("past_key_values", "cache")
    checkpoints_blocks = False

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: parts draw their own weights when they are made."""

    def initialize_weights(self) -> None:
        """Draws wings where no checkpoint filled them; then the rest, in the decoder's own way.

        The decoder's initialisation walks over all of its modules, learners too, so these go first
        and are marked as done. It is called on the decoder itself: from outside of transformers'
        own models it would pass over modules whose only tensors are buffers of their children.
        """
        for module in self.modules():
            if isinstance(module, OF_WINGS):
                module.reset_parameters()
                for part in module.modules():
                    part._is_hf_initialized = True
            elif isinstance(module, VisionTower):
                module.reset_buffers()
        for module in self.modules():
            if isinstance(module, PreTrainedModel) and not isinstance(module, WingsPreTrainedModel):
                module.initialize_weights()
        super().initialize_weights()

    def _set_gradient_checkpointing(
        self,
        enable: bool = True,
        gradient_checkpointing_func: Callable = checkpoint,
        **kwargs: Any,
    ) -> None:
        """Where every way of switching checkpointing on ends; the reentrant kind is refused."""
        if isinstance(gradient_checkpointing_func, partial) and (
            gradient_checkpointing_func.keywords.get("use_reentrant")
        ):
            raise WingsError(
                "gradient checkpointing with use_reentrant=True would lose the gradients of the "
                "image features that learners read: leave it out or set it to False."
            )
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, **kwargs)
        for module in self.modules():
            if isinstance(module, WingsPreTrainedModel):
                module.checkpoints_blocks = enable
