"""`WingsPass`: everything that the wings of every block read in one forward pass."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wings.attention.main_keys import MainKeys
from wings.attention.rotary import CosSin
from wings.attention.source_tokens import SourceTokens
from wings.attention.token_layout import TokenLayout

from .router import GateMask


@dataclass(frozen=True)
class PassOptions:
    """A caller's and a model's choices for every block.

    impl: how the operations run, "auto", "triton" or "torch". output_attentions: whether the main
    attention's weights are asked for. output_router_weights: whether the routers' are.
    """

    impl: str
    output_attentions: bool
    output_router_weights: bool = False


class RouterTrace:
    """Written by the blocks of one pass: which of them ran, and the weights of their learners.

    Attributes:
        reached: the blocks whose wings ran. adapted: the blocks that knew of the pass's adapters.
        weights: of a sense's learners, `[B, T, M]` by block and sense.
        adapter_gates: of the adapters, `[B, T]` by block.
    """

    def __init__(self) -> None:
        self.reached: set[int] = set()
        self.adapted: set[int] = set()
        self.weights: dict[tuple[int, str], Tensor] = {}
        self.adapter_gates: dict[int, Tensor] = {}


@dataclass(frozen=True)
class SenseInputs:
    """Inputs of the learners of one sense, for every block.

    Attributes:
        sources: for each learner, by the name of its module, its source tokens; None where the pass
            has none.
        gate_mask: which of its learners share a token's weight, on tokens that its guard allows.
        share: `[B, T]` float32, the factor of their weights beside other senses; None for 1.
        gates_in_kernel: whether learners take their weights as `TokenGate`, as nobody else reads
            them.
    """

    sources: dict[str, SourceTokens | None]
    gate_mask: GateMask
    share: Tensor | None = None
    gates_in_kernel: bool = False

    def like(self, x: Tensor) -> "SenseInputs":
        """A copy on the device and in the dtype of `x`."""
        sources = {
            name: None if source is None else source.like(x)
            for name, source in self.sources.items()
        }
        share = None if self.share is None else self.share.to(x.device)
        return replace(self, sources=sources, gate_mask=self.gate_mask.to(x.device), share=share)


@dataclass(frozen=True)
class LearnerInputs:
    """Inputs of the learners of every block; a pass in which they do not act has none.

    Attributes:
        rope: of the positions of the new tokens.
        senses: those whose learners act in this pass, by name.
        weighs_masses: whether the senses share tokens by the attention that each gets, which every
            block finds out for itself.
    """

    rope: CosSin
    senses: dict[str, SenseInputs]
    weighs_masses: bool = False

    def like(self, x: Tensor) -> "LearnerInputs":
        """A copy on the device and in the dtype of `x`."""
        senses = {name: inputs.like(x) for name, inputs in self.senses.items()}
        return LearnerInputs(self.rope.like(x), senses, self.weighs_masses)


@dataclass(frozen=True)
class AdapterInputs:
    """Inputs of the adapters of every block; a pass in which they do not act has none.

    Attributes:
        gate_mask: `[B, T, 1]`, tokens on which they may act; None for all.
        is_gated: whether each block's attention gives weights, see `wings/layers/adapter.py`.
    """

    gate_mask: GateMask | None
    is_gated: bool

    def to(self, device: torch.device) -> "AdapterInputs":
        """A copy on `device`."""
        mask = None if self.gate_mask is None else self.gate_mask.to(device)
        return replace(self, gate_mask=mask)


@dataclass(frozen=True)
class WingsPass:
    """One forward pass. `model/prepare.py` makes it; blocks only read it.

    It passes through the decoder's own code as the keyword `wings`.

    Attributes:
        queries: layout of the T new tokens.
        keys: of the main attention.
        is_first: whether no tokens came before.
        is_packed: whether a row holds several sequences.
        learners: the learners' inputs; None where they do not act.
        adapters: the adapters' inputs; None where they do not act.
        options: of the caller and the model.
        trace: written by the blocks, shared by copies.
    """

    queries: TokenLayout
    keys: MainKeys
    is_first: bool
    is_packed: bool
    learners: LearnerInputs | None
    adapters: AdapterInputs | None
    options: PassOptions
    trace: RouterTrace

    def to(self, device: torch.device | None, **_: bool) -> "WingsPass":
        """A copy on `device`; itself where it is there, or for None, as big-model hooks call it."""
        if device is None or self.queries.table.device == torch.device(device):
            return self
        adapters = None if self.adapters is None else self.adapters.to(torch.device(device))
        return replace(
            self, queries=self.queries.to(device), keys=self.keys.to(device), adapters=adapters
        )

    def like(self, x: Tensor) -> "WingsPass":
        """A copy on the device and in the dtype in which a block computes, that of `x`."""
        moved, learners = self.to(x.device), self.learners
        if learners is not None:
            table = learners.rope.table
            if table.device != x.device or table.dtype != x.dtype:
                return replace(moved, learners=learners.like(x))
        return moved
