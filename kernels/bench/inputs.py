"""Random inputs of both operations, as a block of a model would have them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from wings.attention.learner_mask import Visibility
from wings.attention.rotary import Rotation
from wings.attention.routed_attention import Rule
from wings.attention.source_tokens import Kept, Source
from wings.attention.token_layout import PADDING, Layout

from . import flex, textbook
from .batch import COLUMNS
from .preset import Shape
from .stand_in import Operations, cos_sin

ROPE_BASE = 10000.0

Given = TypeVar("Given", bound="Inputs")


class Inputs(Protocol):
    """Tensors by name, of which a function computes something."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Those that have a gradient."""

    def holding(self: Given, tensors: dict[str, Tensor]) -> Given:
        """The same with other tensors in the place of `tensors`."""


@dataclass
class Routed:
    """q `[B, H, T, d]`, k and v `[B, G, T, d]`, columns `[B, T, C]`; causal."""

    q: Tensor
    k: Tensor
    v: Tensor
    columns: Tensor

    @property
    def scale(self) -> float:
        return self.q.shape[-1] ** -0.5

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What has a gradient, by name."""
        return {"q": self.q, "k": self.k, "v": self.v, "columns": self.columns}

    def sees(self) -> Tensor:
        """`[1, T, T]` bool."""
        length = self.q.shape[2]
        return torch.ones(1, length, length, dtype=torch.bool, device=self.q.device).tril()

    def holding(self, tensors: dict[str, Tensor]) -> "Routed":
        """The same with other tensors in the place of `tensors`."""
        return Routed(**tensors)

    def exact(self) -> "Routed":
        """The same numbers in float64."""
        return self.holding(doubled(self.tensors))

    def by(self, one: Operations) -> tuple[Tensor, Tensor]:
        """Output and sums by the arguments that blocks give."""
        return one.routed_attention(self.q, self.k, self.v, self.columns, Rule(None, self.scale))

    def by_textbook(self, sees: Tensor) -> tuple[Tensor, Tensor]:
        """The same by the textbook; `sees` as `self.sees` gives it."""
        return textbook.routed_attention(self.q, self.k, self.v, self.columns, sees, self.scale)

    def by_flex(self, attention: Callable, blocks: BlockMask) -> tuple[Tensor, Tensor]:
        """The same by flex_attention; `blocks` as `self.flex_blocks` gives them."""
        return flex.routed_attention(
            attention, self.q, self.k, self.v, self.columns, blocks, self.scale
        )

    def flex_blocks(self) -> BlockMask:
        """What each query sees, for flex_attention."""
        place = torch.arange(self.q.shape[2], device=self.q.device).expand(self.q.shape[0], -1)
        return flex.blocks(place, place)


@dataclass
class Learner:
    """x `[B, T, D]`, inner = x A_q `[B, T, r]`, small = s A_k and s A_v `[B, 2, S, r]`, the factors
    B_q, B_k, B_v `[r, D]` and A_o `[D, r]`, and the source with its rows s `[B, S, D]`.
    """

    x: Tensor
    inner: Tensor
    small: Tensor
    b_q: Tensor
    b_k: Tensor
    b_v: Tensor
    a_o: Tensor
    heads: int
    rotation: Rotation
    source: Source

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What has a gradient, by name."""
        return {
            "x": self.x, "inner": self.inner, "source": self.source.rows, "small": self.small,
            "b_q": self.b_q, "b_k": self.b_k, "b_v": self.b_v, "a_o": self.a_o,
        }  # fmt: skip

    @property
    def factors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.b_q, self.b_k, self.b_v, self.a_o

    def sees(self) -> Tensor:
        """`[B, T, S]` bool."""
        return self.source.visibility.queries.sees(self.source.keys)

    def holding(self, tensors: dict[str, Tensor]) -> "Learner":
        """The same with other tensors in the place of `tensors`."""
        return replace(
            self,
            x=tensors["x"], inner=tensors["inner"], small=tensors["small"],
            b_q=tensors["b_q"], b_k=tensors["b_k"], b_v=tensors["b_v"], a_o=tensors["a_o"],
            source=replace(self.source, rows=tensors["source"]),
        )  # fmt: skip

    def exact(self) -> "Learner":
        """The same numbers in float64."""
        wide = self.holding(doubled(self.tensors))
        keys = Rotation(self.source.rotation.table.double())
        queries = Rotation(self.rotation.table.double())
        return replace(wide, rotation=queries, source=replace(wide.source, rotation=keys))

    def by(self, one: Operations) -> Tensor:
        """The output by the arguments that blocks give."""
        return one.learner_attention(
            self.x, self.inner, self.source, Kept(self.small), self.factors, self.rotation
        )

    def by_textbook(self, sees: Tensor) -> Tensor:
        """The same by the textbook; `sees` as `self.sees` gives it."""
        return textbook.learner_attention(
            self.x, self.inner, self.source.rows, self.small, self.factors, self.heads,
            cos_sin(self.rotation), cos_sin(self.source.rotation), sees,
        )  # fmt: skip

    def by_flex(self, attention: Callable, blocks: BlockMask) -> Tensor:
        """The same by flex_attention; `blocks` as `self.flex_blocks` gives them."""
        return flex.learner_attention(
            attention, self.x, self.inner, self.source.rows, self.small, self.factors, self.heads,
            cos_sin(self.rotation), cos_sin(self.source.rotation), blocks,
        )  # fmt: skip

    def flex_blocks(self) -> BlockMask:
        """What each query sees, for flex_attention."""
        return flex.blocks(self.source.visibility.queries.position, self.source.keys.visible_from)


def routed(
    shape: Shape, batch: int, length: int, dtype: torch.dtype, device: torch.device
) -> Routed:
    """Transposed views of `[B, T, H, d]`, as a decoder's projections give them."""

    def rows(heads: int) -> Tensor:
        wide = torch.randn(batch, length, heads, shape.head_width, device=device, dtype=dtype)
        return wide.transpose(1, 2)

    columns = torch.randn(batch, length, COLUMNS, device=device, dtype=dtype)
    return Routed(rows(shape.heads), rows(shape.key_heads), rows(shape.key_heads), columns)


def learner(shape: Shape, layout: Layout, kind: int, dtype: torch.dtype) -> Learner:
    """A learner of `kind` (`IMAGE` or `TEXT`) in rows of this layout."""
    is_source = layout.kind == kind
    order = torch.argsort((~is_source).long(), dim=1, stable=True)[:, : int(is_source.sum(1).max())]
    keys = layout.gather(order)
    keys.table[..., 3].masked_fill_(keys.kind != kind, PADDING)
    (batch, length), device = layout.kind.shape, layout.table.device
    width, rank = shape.width, shape.rank

    def drawn(*size: int, std: float = 1.0) -> Tensor:
        return (torch.randn(*size, device=device) * std).to(dtype)

    def turn(at: Layout) -> Rotation:
        inner = torch.arange(0, shape.head_width, 2, device=device) / shape.head_width
        angle = at.position[..., None] * ROPE_BASE**-inner
        return Rotation(torch.cat([angle.cos(), angle.sin()], dim=-1).to(dtype))

    x, rows = drawn(batch, length, width), drawn(batch, len(keys), width)
    a_q, a_k, a_v = (drawn(width, rank, std=width**-0.5) for _ in range(3))
    b_q, b_k, b_v = (drawn(rank, width, std=rank**-0.5) for _ in range(3))
    source = Source(keys, rows, turn(keys), Visibility(layout, keys, continued=False))
    return Learner(
        x, x @ a_q, torch.stack([rows @ a_k, rows @ a_v], dim=1), b_q, b_k, b_v,
        drawn(width, rank, std=width**-0.5), shape.heads, turn(layout), source,
    )  # fmt: skip


def doubled(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers in float64."""
    return {name: tensor.double() for name, tensor in tensors.items()}
