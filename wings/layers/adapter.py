"""Guarded LoRA: low-rank changes of the decoder's linear layers, weighed for each token.

LoRA (Hu et al. 2021) adds x A B * alpha / rank to the output of a linear layer. Here each token has
a weight for it, so adapters can be off without an image, and small where no image is attended to.
Such adapters cannot be merged: a checkpoint keeps them beside the language model's own weights.
"""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wings.errors import WingsError
from wings.lora_options import LoraOptions
from wings.upstream.weights import init

from .wings_pass import WingsPass


@dataclass
class BlockGate:
    """Weights of the adapters of one block while it runs.

    Attributes:
        weights: `[B, T]`, by which each token's share is multiplied; None for 1 everywhere.
    """

    weights: Tensor | None


# The gates of the blocks that run, innermost last; None for a block whose adapters do not act. A
# linear layer is called with its input alone, and a flag on the module would reach other threads.
_RUNNING: ContextVar[tuple[BlockGate | None, ...]] = ContextVar("running_blocks", default=())


class Adapter(nn.Module):
    """x A B * alpha / rank for one linear layer; A `[inputs, rank]`, B `[rank, outputs]`, at zero.

    The factors are no linear layers, so that what adapts "all linear layers" leaves them alone.
    """

    def __init__(self, inputs: int, outputs: int, options: LoraOptions) -> None:
        super().__init__()
        self.scale, self.dropout = options.alpha / options.rank, options.dropout
        self.lora_a = nn.Parameter(torch.empty(inputs, options.rank))
        self.lora_b = nn.Parameter(torch.empty(options.rank, outputs))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A is uniform within 1 / sqrt(inputs), as peft's; B is zero."""
        bound = len(self.lora_a) ** -0.5
        init.uniform_(self.lora_a, -bound, bound)
        init.zeros_(self.lora_b)

    def forward(self, x: Tensor, weights: Tensor | None) -> Tensor:
        """The adapter's share of the output, `[..., outputs]`.

        Args:
            x: input of the linear layer, `[..., inputs]`.
            weights: `[B, T]` of the block's tokens, None for 1.

        Raises:
            WingsError: the layer gets other tokens than its block, such as an expert's.
        """
        x = nn.functional.dropout(x, self.dropout, self.training)
        inner = x @ self.lora_a
        if weights is not None:
            if weights.numel() != inner[..., 0].numel():
                raise WingsError(
                    f"A linear layer gets {inner[..., 0].numel()} of its block's {weights.numel()}"
                    " tokens, so a guarded adapter cannot tell which: leave it out of lora.targets."
                )
            inner = inner * weights.reshape(*inner.shape[:-1], 1).to(inner.device, inner.dtype)
        return inner @ self.lora_b * self.scale


class AdapterMixin(nn.Module):
    """Put before the class of a linear layer: the same module, plus the adapter `wings`."""

    wings: Adapter

    def forward(self, x: Tensor) -> Tensor:
        """The layer's own output, plus the adapter's share where it acts."""
        out: Tensor = super().forward(x)
        running = _RUNNING.get()
        if running and running[-1] is not None:
            return out + self.wings(x, running[-1].weights).to(out.dtype)
        if self.training and torch.is_grad_enabled():
            # Every process of a distributed run then has the same gradients.
            zero = self.wings.lora_a.sum() * 0.0 + self.wings.lora_b.sum() * 0.0
            return out + zero.to(out.dtype)
        return out


class AdaptedBlockMixin(nn.Module):
    """Put before the class of a decoder's block: gives the block's adapters their weights.

    The layers before its attention get those that the latest attention gave, in a block before; in
    the first block nothing has attended to an image yet, and they are zero. They carry no gradient
    to that block, so each block's backward stays its own. A subclass and no hook: a checkpointed
    block runs its forward again, without hooks.
    """

    adapter_layer: int

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The block's own forward."""
        _RUNNING.set((*_RUNNING.get(), self._gate(kwargs.get("wings"))))
        try:
            return super().forward(*args, **kwargs)
        finally:
            _RUNNING.set(_RUNNING.get()[:-1])

    def _gate(self, wings: WingsPass | None) -> BlockGate | None:
        adapters = None if wings is None else wings.adapters
        if wings is None or adapters is None:
            return None
        wings.trace.adapted.add(self.adapter_layer)
        if adapters.gate_mask is None:
            return BlockGate(None)
        weights = adapters.gate_mask.factor[..., 0]
        if adapters.is_gated:
            gates = wings.trace.adapter_gates
            earlier = [layer for layer in gates if layer < self.adapter_layer]
            weights = gates[max(earlier)].detach() if earlier else weights * 0.0
        return BlockGate(weights)


def gate_block(layer: int, weights: Tensor, wings: WingsPass) -> None:
    """In a block's attention: the weights `[B, T]` of the adapters that follow it."""
    running = _RUNNING.get()
    wings.trace.adapter_gates.setdefault(layer, weights)
    if running and running[-1] is not None:
        running[-1].weights = weights
