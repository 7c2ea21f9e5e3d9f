"""Models that a model with all wings is compared with, of the same size.

transformers' LLaVA, a cross-attention model, and the cheap form of wings: the image learner alone,
in every third block, with the attended router.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MllamaForCausalLM,
    PreTrainedModel,
)

from wings import WingsConfig, WingsForCausalLM

from .inputs import as_text
from .run import CHEAP, CROSS, LLAVA
from .setting import PATCH, Shape

# The cheap form has learners in every third block.
THIRD = 3
# Llama 3.2 Vision adds a cross-attention block to every four blocks.
EVERY = 4
# As many blocks and as wide as the tower of the models with wings.
SMALL_TOWER: dict[str, Any] = {"width": 64, "layers": 2, "head_width": 32}
TOWER: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2}


@dataclass(frozen=True)
class Alternative:
    """A model, and its inputs for a batch that a model with wings takes."""

    model: PreTrainedModel
    inputs: Callable[[dict[str, Tensor]], dict[str, Tensor]]

    def train(self) -> None:
        """Trains everything but the vision tower."""
        self.model.train().requires_grad_(True)
        for name, parameter in self.model.named_parameters():
            if "vision_tower" in name:
                parameter.requires_grad_(False)


def build_alternatives(
    shape: Shape, layers: int, positions: int, impl: str
) -> dict[str, Alternative]:
    """The models with random weights, by variant, in torch's default dtype and device.

    Args:
        shape: of their decoders.
        layers: blocks of each.
        positions: tokens of the longest row.
        impl: in which learners and router run.
    """
    return {
        CHEAP: _cheap(shape, layers, positions, impl),
        LLAVA: _llava(shape, layers, positions),
        CROSS: _cross_attention(shape, layers, positions),
    }


def _text_fields(shape: Shape, layers: int, positions: int) -> dict[str, Any]:
    return {
        "hidden_size": shape.width,
        "num_hidden_layers": layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_heads,
        "intermediate_size": shape.inner,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": positions,
    }


def _cheap(shape: Shape, layers: int, positions: int, impl: str) -> Alternative:
    config = WingsConfig(
        text_config=LlamaConfig(
            **_text_fields(shape, layers, positions), tie_word_embeddings=False
        ),
        vision_config={
            "vision_cfg": {"image_size": shape.pixels, "patch_size": PATCH, **SMALL_TOWER}
        },
        rank=shape.rank,
        learners=("image",),
        learner_layers=tuple(range(0, layers, THIRD)),
        router="attended",
    )
    model = WingsForCausalLM(config).eval()
    model.impl = impl
    wake(model)
    return Alternative(model, lambda row: row)


def wake(model: WingsForCausalLM) -> None:
    """Draws learners and routers that are zero: products with zeros may run faster."""
    groups = model.parameter_groups()
    with torch.no_grad():
        for name in ("image_learners", "text_learners", "router"):
            for weight in groups.get(name, ()):
                if not weight.any():
                    weight.normal_(std=0.05)


def _llava(shape: Shape, layers: int, positions: int) -> Alternative:
    image = shape.vocabulary - 1
    config = LlavaConfig(
        text_config=LlamaConfig(**_text_fields(shape, layers, positions)),
        vision_config=CLIPVisionConfig(
            **TOWER, num_attention_heads=2, image_size=shape.pixels, patch_size=PATCH
        ),
        image_token_index=image,
    )

    def inputs(row: dict[str, Tensor]) -> dict[str, Tensor]:
        """Same tokens, with LLaVA's id in the places of the image."""
        text = as_text(shape, row)
        is_image = row["input_ids"] >= shape.vocabulary
        ids = (text["input_ids"] % image).masked_fill(is_image, image)
        return {**text, "input_ids": ids, "pixel_values": row["pixel_values"]}

    return Alternative(LlavaForConditionalGeneration(config).eval(), inputs)


def _cross_attention(shape: Shape, layers: int, positions: int) -> Alternative:
    added = max(1, layers // EVERY)
    blocks = layers + added
    places = [EVERY + n * (EVERY + 1) for n in range(added)]
    config: Any = AutoConfig.for_model(
        "mllama_text_model",
        **_text_fields(shape, blocks, positions),
        cross_attention_layers=[place for place in places if place < blocks],
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )

    def inputs(row: dict[str, Tensor]) -> dict[str, Tensor]:
        """Text alone in the row; image features as a second input, as its projector gives them."""
        text = {name: value[:, shape.image_tokens :] for name, value in as_text(shape, row).items()}
        pixels = row["pixel_values"]
        size = len(pixels), shape.image_tokens, shape.width
        features = torch.zeros(size, dtype=pixels.dtype, device=pixels.device).normal_()
        return {**text, "cross_attention_states": features}

    return Alternative(MllamaForCausalLM(config).eval(), inputs)
