"""`LogitScaling`: the scaling and cap that decoders apply to the output head's logits."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

FACTORS = ("logit_scale", "output_multiplier", "lm_head_multiplier")
DIVISORS = ("logits_scaling",)
SOFTCAP = "final_logit_softcapping"


class LogitScaling:
    """Scales and caps logits as the decoder's own causal LM does, read from its configuration.

    A missing field does nothing. A model that is put together from pretrained parts is compared
    with its causal LM, so that a scaling unknown here is found.
    """

    def __init__(self, text_config: PreTrainedConfig) -> None:
        fields = text_config.to_dict()
        self.factor = 1.0
        for name in FACTORS:
            self.factor *= 1.0 if fields.get(name) is None else fields[name]
        for name in DIVISORS:
            self.factor /= 1.0 if fields.get(name) is None else fields[name]
        self.softcap = fields.get(SOFTCAP)

    def __call__(self, logits: Tensor) -> Tensor:
        """Returns logits of any shape, scaled and soft-capped."""
        if self.factor != 1.0:
            logits = logits * self.factor
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits


def prefix_of(child: nn.Module, parent: nn.Module) -> str:
    """Returns the dotted name of `child` in `parent`."""
    return next(name for name, module in parent.named_modules() if module is child)
