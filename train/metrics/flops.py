"""FLOPs that training a model needs, however it is implemented, and those that GPUs can do."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call

from wings.encoders.open_clip_tower import VisionTower
from wings.model.causal_lm import WingsForCausalLM
from wings.model.inject import find_attentions
from wings.upstream.flops import flop_counter

# Dense bfloat16 matrix products with float32 sums, in TFLOP/s, as the vendors state them (float16
# for GPUs without bfloat16). The first name that is part of the device's name counts.
PEAK_TFLOPS = {
    "GB200": 2500.0,
    "B200": 2250.0,
    "GH200": 989.0,
    "H200 NVL": 835.0,
    "H200": 989.0,
    "H100 NVL": 835.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "H800": 989.0,
    "H20": 148.0,
    "A100": 312.0,
    "A800": 312.0,
    "A30": 165.0,
    "A40": 149.7,
    "A10G": 70.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "RTX 6000 Ada": 364.2,
    "RTX A6000": 154.8,
    "RTX 5090": 209.5,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
    "V100": 125.0,
    "T4": 65.0,
    "MI300X": 1307.4,
    "MI250X": 383.0,
}


@dataclass(frozen=True)
class Flops:
    r"""FLOPs of a training step per unit of each count (`batch_counts.NAMES`).

    A product of a token with a matrix of n numbers takes 2 n forward, 2 n for the gradient of the
    token and, if the matrix is trained, 2 n for its own gradient. With D the decoder's width, H
    heads of width d, F the tower's width, r the rank, L blocks with attention and L' of them with
    learners::

        token     2 (2 + t) n    n: numbers of the decoder's matrices, of which t is 1 where one is
                                 trained and 0 elsewhere; of experts, those that a token uses;
                                 and 3 * 4 H d P L' for a prefix of P keys
        trained   2 (2 + t) D V  the head, V entries, for trained tokens only
        pair      3 * 4 H d L    q k^T and the weighted values
        learner   for each of the two, with L' blocks:
          query   3 * 8 D r L'   A_q, B_q, A_o, B_o
          source  3 * 8 D r L'   A_k, B_k, A_v, B_v
          pair    3 * 4 D L'     as above, with heads as wide as the decoder
                                 (cross-attention: 4 D r, 4 D r and 4 r in their places)
        image     the tower, forward alone, counted in a pass on the meta device; and the projector,
                  2 (2 D F + 3 D D) a feature

    A pair is a token and one that it sees: half of the square. Not counted: padding, the router,
    norms and other elementwise work, recomputation under gradient checkpointing, and the LLM's pass
    of kl_to_base. A sliding window is counted as full attention.
    """

    token: float
    trained: float
    pair: float
    query: float
    source: float
    learner_pair: float
    image: float

    @classmethod
    def of(cls, model: WingsForCausalLM) -> "Flops":
        """FLOPs of a model with its groups frozen as in training."""
        config, text = model.config, model.config.text_config
        width, fields = config.hidden_size, text.to_dict()
        heads = text.num_attention_heads
        head_width = fields.get("head_dim") or width // heads
        tower, projector = model.model.vision_tower, model.model.projector
        features = 2 * (2 * projector.first.weight.numel() + 3 * projector.second.weight.numel())
        blocks = len(config.layers_with_learners)
        is_lorra = config.learner_form == "lorra"
        factors = 3 * (8 if is_lorra else 4) * width * config.rank * blocks
        prefixes = config.prefix_length * len(config.layers_with_wings)
        return cls(
            token=decoder_flops(model) + 3 * 4 * heads * head_width * prefixes,
            trained=2 * passes(model.lm_head.weight) * model.lm_head.weight.numel(),
            pair=3 * 4 * heads * head_width * len(find_attentions(model.model.language_model)),
            query=factors,
            source=factors,
            learner_pair=3 * 4 * (width if is_lorra else config.rank) * blocks,
            image=tower_flops(tower) + features * tower.image_seq_length,
        )

    def total(self, counts: Mapping[str, float]) -> float:
        """FLOPs of these counts."""
        learners = sum(
            self.query * counts[f"{name}_queries"]
            + self.source * counts[f"{name}_sources"]
            + self.learner_pair * counts[f"{name}_pairs"]
            for name in ("image", "text")
        )
        return (
            self.token * counts["tokens"]
            + self.trained * counts["trained"]
            + self.pair * counts["pairs"]
            + self.image * counts["images"]
            + learners
        )


def passes(weight: nn.Parameter) -> int:
    """Forward, gradient of the input, and gradient of the weight if it is trained."""
    return 2 + weight.requires_grad


def decoder_flops(model: WingsForCausalLM) -> float:
    """FLOPs of one token in the decoder's matrices, without attention, wings and head."""
    decoder = model.model.language_model
    per_token = model.config.text_config.to_dict().get("num_experts_per_tok")
    tables = {module.weight for module in decoder.modules() if isinstance(module, nn.Embedding)}
    total = 0.0
    for name, weight in decoder.named_parameters():
        if weight.ndim < 2 or ".wings." in name or weight in tables:
            continue
        size = weight.numel()
        if weight.ndim == 3 and per_token:
            # All experts are in one tensor; a token uses a few of them.
            size = size / len(weight) * min(per_token, len(weight))
        total += 2 * passes(weight) * size
    return total


def tower_flops(tower: VisionTower) -> float:
    """FLOPs of one image in the vision tower, forward, counted on the meta device."""
    tensors = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in (*tower.named_parameters(), *tower.named_buffers())
    }
    size = tower.config["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    pixels = torch.empty(1, 3, height, width, device="meta")
    with torch.no_grad(), flop_counter() as counter:
        functional_call(tower, tensors, (pixels,))
    return float(counter.get_total_flops())


def peak_flops(name: str) -> float | None:
    """Peak FLOP/s of the device with this name; None if it is not in the table."""
    words = f" {name.lower().replace('-', ' ')} "
    if " mig " in words:
        # The name of a MIG slice does not give its share of the GPU.
        return None
    for card, tflops in PEAK_TFLOPS.items():
        # Whole words: an "L4" is no part of an "L40", nor an "A10" of an "A100".
        if f" {card.lower()} " in words:
            return tflops * 1e12
    return None
