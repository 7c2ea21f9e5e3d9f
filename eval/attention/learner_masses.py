"""Masses of the learners' own attention in a Wings model, times their gates.

Of block l, token i, key j and learner m with attention weights b^m_ij (averaged over its heads, one
row over the keys of its modality that the token sees) and gate g_im::

    learners_ij = sum over m of g_im b^m_ij

It mirrors the block's output, main(x) + sum over m of g_m O_m, each term once. The masses say where
learners look, not how much they add: a fresh learner looks and adds exactly zero. The size of what
they add is measured too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from wings.attention.learner_attention import attend
from wings.attention.rotary import CosSin
from wings.attention.source_tokens import SourceTokens
from wings.attention.token_layout import PADDING
from wings.errors import WingsError
from wings.layers.lorra import Factors, LoRRALearner, expand
from wings.layers.wings_layer import WingsAttentionMixin, WingsLayer
from wings.layers.wings_pass import WingsPass


class LearnerMasses:
    """Masses of all learners in one pass.

    columns: `[B, T, C]` of all tokens. real: `[B, T]` bool. mean: of `[B, T, ...]` over the tokens.
    """

    def __init__(self, columns: Tensor, real: Tensor, mean: Callable[[Tensor], Tensor]) -> None:
        # Source rows know their token's position, which counts the tokens that are no padding.
        position = (real.cumsum(1) - 1).clamp(min=0)
        self.by_position = torch.zeros_like(columns).scatter_add_(
            1, position[..., None].expand_as(columns), columns
        )
        self.mean = mean
        self.masses: dict[int, Tensor] = {}
        self.effect: dict[int, Tensor] = {}
        self._share: dict[int, Tensor] = {}

    @contextmanager
    def watching(self, decoder: nn.Module) -> Iterator[None]:
        """Within it, hooks stand on the wings of every block of `decoder`."""
        handles = []
        for module in decoder.modules():
            if isinstance(module, WingsLayer):
                handles.append(module.register_forward_hook(self._look))
            elif isinstance(module, WingsAttentionMixin):
                weigh = partial(self._weigh, module.wings.layer)
                handles.append(module.register_forward_hook(weigh))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def stacked(self, layers: tuple[int, ...], like: Tensor) -> tuple[Tensor, Tensor]:
        """Masses `[B, L, C]` and effects `[B, L]`; zero in blocks where no learner acted."""
        nothing, none = torch.zeros_like(like), torch.zeros_like(like[:, 0])
        masses = [self.masses.get(layer, nothing) for layer in layers]
        effect = [self.effect.get(layer, none) for layer in layers]
        return torch.stack(masses, dim=1), torch.stack(effect, dim=1)

    def _look(self, block: WingsLayer, inputs: tuple, share: Tensor) -> None:
        x, _, wings = inputs
        self._share[block.layer] = share
        self.masses[block.layer] = self.mean(self.of_block(block, x, wings))

    def _weigh(self, layer: int, attention: nn.Module, inputs: tuple, outputs: tuple) -> None:
        share = self._share.pop(layer, None)
        if share is not None:
            main = (outputs[0] - share).float().norm(dim=-1)
            ratio = share.float().norm(dim=-1) / main.clamp(min=1e-12)
            self.effect[layer] = self.mean(ratio)

    def of_block(self, block: WingsLayer, x: Tensor, wings: WingsPass) -> Tensor:
        """sum over m of g_m times the sums of learner m: `[B, T, D]` -> `[B, T, C]`."""
        assert wings.learners is not None, "learners act where their block is called"
        total = x.new_zeros(*x.shape[:2], self.by_position.shape[-1], dtype=torch.float32)
        read = [
            (sense, number, name)
            for sense in dict(block.acting(wings.learners)).values()
            for number, name in enumerate(sense.modules)
        ]
        for sense, number, name in read:
            gates = wings.trace.weights[block.layer, sense.name]
            source = wings.learners.senses[sense.name].sources[name]
            if source is not None:
                learner = block.learner(number, sense.name)
                if not isinstance(learner, LoRRALearner):
                    raise WingsError(
                        "The attention shift is defined for LoRRA learners; this model's are"
                        " cross-attention, so measure it with wings eval instead."
                    )
                factors = learner.factors(x.dtype)
                sums = self.of_learner(factors, x, source, wings.learners.rope)
                total = total + gates[..., number, None] * sums
        return total

    def of_learner(self, factors: Factors, x: Tensor, source: SourceTokens, rope: CosSin) -> Tensor:
        """The learner's attention, its values replaced by columns: `[B, T, C]`."""
        width = rope.table.shape[-1]
        q = expand(x, x @ factors.a_q, factors.b_q, width)
        k = expand(source.tokens, source.tokens @ factors.a_k, factors.b_k, width)
        key_rope = source.rope
        if key_rope is None:
            assert source.decode is not None, "a pass has one of the two"
            key_rope = CosSin.of(source.decode.rope_table)
        heads = q.shape[2]
        table = self.by_position.to(x.device)
        layout = source.layout
        index = layout.position.clamp(min=0)[..., None].expand(-1, -1, table.shape[-1])
        columns = table.gather(1, index).masked_fill((layout.kind == PADDING)[..., None], 0.0)
        sums = []
        # Values as wide as the heads keep torch's fused attention running.
        for part in columns.to(x.dtype).split(width, dim=-1):
            count = part.shape[-1]
            v = nn.functional.pad(part, (0, width - count))[:, :, None].expand(-1, -1, heads, -1)
            mean = torch.eye(width, dtype=x.dtype, device=x.device)[:, :count].repeat(heads, 1)
            sums.append(attend(q, k, v, mean / heads, source.mask, rope, key_rope))
        return torch.cat(sums, dim=-1).float()
