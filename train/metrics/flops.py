"""FLOPs that training a model needs, however it is implemented, and those that GPUs can do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from wings.model.causal_lm import WingsForCausalLM
from wings.model.inject import find_attentions
from wings.sense import Sense
from wings.upstream.flops import flop_counter

from .batch_counts import items_of, modules_of

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
class SenseFlops:
    """FLOPs of one sense per unit of each of its counts; see `Flops`."""

    query: float
    source: float
    learner_pair: float
    item: float

    @classmethod
    def of(cls, model: WingsForCausalLM, sense: Sense, encodes: bool = True) -> "SenseFlops":
        """FLOPs of a sense of a model; without its encoder unless the model `encodes`."""
        width = model.config.hidden_size
        encoder = model.model.encoder(sense)
        projector: Any = model.model.get_submodule(sense.projector_name)
        features = 2 * (2 * projector.first.weight.numel() + 3 * projector.second.weight.numel())
        is_lorra = sense.learner_form == "lorra"
        blocks = len(sense.layers)
        factors = 3 * (8 if is_lorra else 4) * width * sense.rank * blocks
        return cls(
            query=factors,
            source=factors,
            learner_pair=3 * 4 * (width if is_lorra else sense.rank) * blocks,
            item=encodes * encoder_flops(encoder) + features * encoder.seq_length,
        )

    def total(self, counts: Mapping[str, float], sense: Sense) -> float:
        """FLOPs of these counts."""
        learners = sum(
            self.query * counts[f"{module}_queries"]
            + self.source * counts[f"{module}_sources"]
            + self.learner_pair * counts[f"{module}_pairs"]
            for module in modules_of(sense)
        )
        return self.item * counts[items_of(sense.name)] + learners


@dataclass(frozen=True)
class Flops:
    r"""FLOPs of a training step per unit of each count (`batch_counts.names_of`).

    A product of a token with a matrix of n numbers takes 2 n forward, 2 n for the gradient of the
    token and, if the matrix is trained, 2 n for its own gradient. With D the decoder's width, H
    heads of width d, F the width of an encoder's features, r the rank, L blocks with attention and
    L' of them with learners::

        token     2 (2 + t) n    n: numbers of the decoder's matrices, of which t is 1 where one is
                                 trained and 0 elsewhere; of experts, those that a token uses;
                                 and 3 * 4 H d P L' for a prefix of P keys
        trained   2 (2 + t) D V  the head, V entries, for trained tokens only
        pair      3 * 4 H d L    q k^T and the weighted values
        learner   for each learner of a sense, with L' blocks:
          query   3 * 8 D r L'   A_q, B_q, A_o, B_o
          source  3 * 8 D r L'   A_k, B_k, A_v, B_v
          pair    3 * 4 D L'     as above, with heads as wide as the decoder
                                 (cross-attention: 4 D r, 4 D r and 4 r in their places)
        item      the encoder, forward alone, counted in a pass on the meta device; and the
                  projector, 2 (2 D F + 3 D D) a feature

    A pair is a token and one that it sees: half of the square. Not counted: padding, the router,
    norms and other elementwise work, recomputation under gradient checkpointing, the LLM's pass of
    kl_to_base, and encoders with a `feature_cache`. A sliding window counts as full attention.
    """

    token: float
    trained: float
    pair: float
    senses: list[tuple[Sense, SenseFlops]]

    @classmethod
    def of(cls, model: WingsForCausalLM, encodes: bool = True) -> "Flops":
        """FLOPs of a model with its groups frozen as in training; see `SenseFlops.of`."""
        config, text = model.config, model.config.text_config
        width, fields = config.hidden_size, text.to_dict()
        heads = text.num_attention_heads
        head_width = fields.get("head_dim") or width // heads
        prefixes = config.prefix_length * len(config.layers_with_wings)
        return cls(
            token=decoder_flops(model) + 3 * 4 * heads * head_width * prefixes,
            trained=2 * passes(model.lm_head.weight) * model.lm_head.weight.numel(),
            pair=3 * 4 * heads * head_width * len(find_attentions(model.model.language_model)),
            senses=[
                (sense, SenseFlops.of(model, sense, encodes)) for sense in config.senses.values()
            ],
        )

    def total(self, counts: Mapping[str, float]) -> float:
        """FLOPs of these counts."""
        return (
            self.token * counts["tokens"]
            + self.trained * counts["trained"]
            + self.pair * counts["pairs"]
            + sum(flops.total(counts, sense) for sense, flops in self.senses)
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


def encoder_flops(encoder: Any) -> float:
    """FLOPs of one item in an encoder, forward, counted on the meta device."""
    tensors = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in (*encoder.named_parameters(), *encoder.named_buffers())
    }
    values = torch.empty(1, *encoder.item_shape, device="meta")
    with torch.no_grad(), flop_counter() as counter:
        functional_call(encoder, tensors, (values,))
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
