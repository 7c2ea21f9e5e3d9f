"""FLOPs: the arithmetic that a model's training asks for, whatever way it is carried out."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call

from wings.encoders.open_clip_tower import VisionTower
from wings.model.causal_lm import WingsForCausalLM
from wings.model.inject import find_attentions
from wings.upstream.flops import flop_counter


@dataclass(frozen=True)
class Flops:
    r"""Floating point operations of a training step, per thing counted (`counts.NAMES`).

    A product of a token with a matrix of n numbers takes 2 n forward, 2 n for the gradient of the
    token and, where the matrix is trained, 2 n for its own. With D the decoder's width, H heads of
    width d, F the tower's width, r the rank, L blocks with attention and L' of them with learners::

        token     2 (2 + t) n    n: numbers of the decoder's matrices, of which t is 1 where one is
                                 trained and 0 elsewhere; of experts, those that a token meets;
                                 and 3 * 4 H d P L' for a prefix of P keys
        trained   2 (2 + t) D V  the head, V entries: asked only where a token is trained
        pair      3 * 4 H d L    q k^T and the weighted values
        learner   for each of the two, with L' blocks:
          act     3 * 8 D r L'   A_q, B_q, A_o, B_o
          row     3 * 8 D r L'   A_k, B_k, A_v, B_v
          pair    3 * 4 D L'     as above, with heads as wide as the decoder
        image     the tower, forward alone, counted in a pass on the meta device; and the projector,
                  2 (2 D F + 3 D D) a feature

    A pair is a token and one that it sees: half of the square. What is left out: padding, the
    router, norms and other elementwise work, what gradient checkpointing does again and the pass
    that kl_to_base asks of the language model. A sliding window is counted as if it were as long as
    the text.
    """

    token: float
    trained: float
    pair: float
    act: float
    row: float
    learner_pair: float
    image: float

    @classmethod
    def of(cls, model: WingsForCausalLM) -> "Flops":
        """Of a model whose groups are frozen or trained as they will be."""
        config, text = model.config, model.config.text_config
        width, fields = config.hidden_size, text.to_dict()
        heads = text.num_attention_heads
        head_width = fields.get("head_dim") or width // heads
        tower, projector = model.model.vision_tower, model.model.projector
        features = 2 * (2 * projector.first.weight.numel() + 3 * projector.second.weight.numel())
        blocks = len(config.layers_with_learners)
        factors = 3 * 8 * width * config.rank * blocks
        prefixes = config.prefix * len(config.layers_with_wings)
        return cls(
            token=decoder_flops(model) + 3 * 4 * heads * head_width * prefixes,
            trained=2 * passes(model.lm_head.weight) * model.lm_head.weight.numel(),
            pair=3 * 4 * heads * head_width * len(find_attentions(model.model.language_model)),
            act=factors,
            row=factors,
            learner_pair=3 * 4 * width * blocks,
            image=tower_flops(tower) + features * tower.image_seq_length,
        )

    def total(self, counts: Mapping[str, float]) -> float:
        """Of what was counted."""
        learners = sum(
            self.act * counts[f"{name}_acts"]
            + self.row * counts[f"{name}_rows"]
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
    """Forward, the gradient of what comes in, and of the weight where it is trained."""
    return 2 + weight.requires_grad


def decoder_flops(model: WingsForCausalLM) -> float:
    """Of one token in the decoder's matrices, without attention itself, wings and the head."""
    decoder = model.model.language_model
    per_token = model.config.text_config.to_dict().get("num_experts_per_tok")
    tables = {module.weight for module in decoder.modules() if isinstance(module, nn.Embedding)}
    total = 0.0
    for name, weight in decoder.named_parameters():
        if weight.ndim < 2 or ".wings." in name or weight in tables:
            continue
        size = weight.numel()
        if weight.ndim == 3 and per_token:
            # Experts stand in one tensor, and a token meets a few of them.
            size = size / len(weight) * min(per_token, len(weight))
        total += 2 * passes(weight) * size
    return total


def tower_flops(tower: VisionTower) -> float:
    """Of one image in the vision tower, forward, counted by torch without computing anything."""
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
