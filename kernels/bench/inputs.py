"""Random inputs of both operations, as a block of a model would have them."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wings.layout import PADDING, Layout
from wings.rotary import Rotation
from wings.source import Source
from wings.visible_attention import Visibility

from .batch import COLUMNS
from .preset import Shape

ROPE_BASE = 10000.0


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
        rest = {name: tensor for name, tensor in tensors.items() if name != "source"}
        return replace(self, source=replace(self.source, rows=tensors["source"]), **rest)


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
    factors = [drawn(rank, width, std=rank**-0.5) for _ in range(3)]
    source = Source(keys, rows, turn(keys), Visibility(layout, keys, continued=False))
    return Learner(
        x, x @ a_q, torch.stack([rows @ a_k, rows @ a_v], dim=1), *factors,
        drawn(width, rank, std=width**-0.5), shape.heads, turn(layout), source,
    )  # fmt: skip


def exact(inputs: Routed | Learner) -> Routed | Learner:
    """The same numbers in float64."""
    wide = inputs.holding({name: tensor.double() for name, tensor in inputs.tensors.items()})
    if isinstance(wide, Learner):
        wide.rotation = Rotation(wide.rotation.table.double())
        wide.source.rotation = Rotation(wide.source.rotation.table.double())
    return wide
