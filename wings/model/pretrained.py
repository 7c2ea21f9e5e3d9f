"""`WingsPreTrainedModel`: initialisation and gradient checkpointing, shared by both models."""

from typing import Any

from wings.config import WingsConfig
from wings.errors import WingsError
from wings.layers.adapter import Adapter
from wings.layers.cross_attention import CrossAttentionLearner
from wings.layers.lorra import LoRRALearner
from wings.layers.prefix import Prefix
from wings.layers.router import AttendedRouter, ModalityRouter, PositionRouter
from wings.layers.wings_layer import IMPLEMENTATIONS
from wings.upstream.attention import name_attention
from wings.upstream.weights import ModelHooks, mark_as_drawn

# Parts of a block's wings that draw their own weights.
OF_WINGS = (
    LoRRALearner, CrossAttentionLearner, PositionRouter, ModalityRouter, AttendedRouter, Prefix,
    Adapter,
)  # fmt: skip


class WingsPreTrainedModel(ModelHooks):
    """Base of both models: configuration, initialisation, gradient checkpointing."""

    config: WingsConfig
    config_class = WingsConfig
    base_model_prefix = "model"
    # Pipelines ask for it before they accept pictures.
    input_modalities: str | list[str] = ["image", "text"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    checkpoints_blocks = False

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoModel") -> None:
        """Does nothing: every folder is saved with its code, see `wings/saved_code.py`."""

    def set_attn_implementation(
        self, attn_implementation: str | dict, *args: Any, **kwargs: Any
    ) -> None:
        """Chooses the kernel of the decoder's own attention: "sdpa" or "eager".

        Args:
            attn_implementation: a name, or a dict with it under "text_config" or "".
            *args, **kwargs: transformers' own, without effect.

        Raises:
            WingsError: another name.
        """
        name: Any = attn_implementation
        if isinstance(name, dict):
            name = name.get("text_config", name.get("", next(iter(name.values()), None)))
        if name not in IMPLEMENTATIONS:
            raise WingsError(
                f"The attention implementation '{name}' does not give what routers read: choose "
                f"one of {', '.join(sorted(IMPLEMENTATIONS))}."
            )
        name_attention(self.config.text_config, IMPLEMENTATIONS[name])

    def draw_own_weights(self) -> None:
        """Initialises wings that no checkpoint filled, and computes buffers of the encoders."""
        names = {sense.encoder_name for sense in self.config.senses.values()}
        for name, module in self.named_modules():
            if isinstance(module, OF_WINGS):
                module.reset_parameters()
                mark_as_drawn(module)
            elif name.removeprefix("model.") in names:
                encoder: Any = module
                encoder.reset_buffers()

    def on_gradient_checkpointing(self, enable: bool) -> None:
        """Tells both models whether their blocks run twice in a training step."""
        for module in self.modules():
            if isinstance(module, WingsPreTrainedModel):
                module.checkpoints_blocks = enable
