"""Models of a shape: with wings, and the bare language model that they grew from."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlamaConfig, PreTrainedModel

from wings import WingsConfig, WingsForCausalLM

from .preset import PATCH, Shape

# So small that its cost hides nothing; its number of patches is what counts.
TOWER = {"patch_size": PATCH, "width": 64, "layers": 2, "head_width": 32}


@dataclass
class Pair:
    """A model with wings, and the same decoder without."""

    wings: WingsForCausalLM
    bare: PreTrainedModel

    def train(self) -> "Pair":
        """Everything trained but the vision tower."""
        self.wings.train().requires_grad_(True)
        self.wings.model.vision_tower.requires_grad_(False)
        self.bare.train().requires_grad_(True)
        return self

    def forget_gradients(self) -> None:
        self.wings.zero_grad(set_to_none=True)
        self.bare.zero_grad(set_to_none=True)


def build(
    shape: Shape, layers: int, positions: int, dtype: torch.dtype, device: torch.device
) -> Pair:
    """Random weights, none of them zero; `positions`: the longest row that will be read."""
    text = LlamaConfig(
        hidden_size=shape.width,
        num_hidden_layers=layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        intermediate_size=shape.inner,
        vocab_size=shape.vocabulary,
        max_position_embeddings=positions,
        tie_word_embeddings=False,
    )
    config = WingsConfig(
        text_config=text,
        vision_config={"vision_cfg": {"image_size": shape.pixels, **TOWER}},
        rank=shape.rank,
        router_positions=positions,
    )
    with made_as(dtype, device):
        wings = WingsForCausalLM(config).eval()
        bare = wings.extract_language_model()
    if device.type == "cuda":
        # Where kernels cannot be had it is an error, and no figure under a wrong name.
        wings.model.kernels = "triton"
    waken(wings)
    return Pair(wings, bare)


@contextmanager
def made_as(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Weights are drawn where they will lie: seven billion on a host would take minutes."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)


@torch.no_grad()
def waken(model: WingsForCausalLM) -> None:
    """Draws what starts at zero: a fresh learner gives nothing, and zeros may run faster."""
    groups = model.parameter_groups()
    for name in ("image_learners", "text_learners", "router"):
        for weight in groups.get(name, ()):
            if not weight.any():
                weight.normal_(std=0.05)


def step(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    """Forward with labels, and backward; the loss. No optimizer: it is the same for both."""
    loss = model(**batch, use_cache=False).loss
    loss.backward()
    return loss
