"""`WingsPreTrainedModel`: initialisation and gradient checkpointing, shared by both models."""

from wings.config import WingsConfig
from wings.encoders.open_clip_tower import VisionTower
from wings.layers.adapter import Adapter
from wings.layers.lorra import LoRRALearner
from wings.layers.prefix import Prefix
from wings.layers.router import AttendedRouter, ModalityRouter, PositionRouter
from wings.upstream.weights import ModelHooks, mark_as_drawn

# Parts of a block's wings that draw their own weights.
OF_WINGS = (LoRRALearner, PositionRouter, ModalityRouter, AttendedRouter, Prefix, Adapter)


class WingsPreTrainedModel(ModelHooks):
    """Base of both models: configuration, initialisation, gradient checkpointing."""

    config: WingsConfig
    config_class = WingsConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    checkpoints_blocks = False

    def draw_own_weights(self) -> None:
        """Initialises wings that no checkpoint filled, and computes the tower's missing buffers."""
        for module in self.modules():
            if isinstance(module, OF_WINGS):
                module.reset_parameters()
                mark_as_drawn(module)
            elif isinstance(module, VisionTower):
                module.reset_buffers()

    def on_gradient_checkpointing(self, enable: bool) -> None:
        """Tells both models whether their blocks run twice in a training step."""
        for module in self.modules():
            if isinstance(module, WingsPreTrainedModel):
                module.checkpoints_blocks = enable
