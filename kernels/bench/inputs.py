"""Inputs of models and of the two operations: rows with one image, and random numbers."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from wings.attention.learner_mask import LearnerMask
from wings.attention.rotary import DEFAULT_BASE, CosSin, RotaryEmbedding
from wings.attention.source_tokens import SourceTokens, wanted_columns
from wings.attention.token_layout import IMAGE, TEXT, TokenLayout

from .run import IMAGES, ROUTED, TEXTS
from .setting import BEFORE, COLUMNS, Shape

KINDS = {IMAGES: IMAGE, TEXTS: TEXT}


def tokens(shape: Shape, batch: int, length: int, device: torch.device) -> dict[str, Tensor]:
    """`input_ids` and `labels [B, T]`, `pixel_values [B, 3, H, W]`; image tokens have no label.

    The image token is the first id after the vocabulary.
    """
    ids = torch.randint(0, shape.vocabulary, (batch, length), device=device)
    image = slice(BEFORE, BEFORE + shape.image_tokens)
    labels = ids.clone()
    ids[:, image], labels[:, image] = shape.vocabulary, -100
    pixels = torch.randn(batch, 3, shape.pixels, shape.pixels, device=device)
    return {"input_ids": ids, "labels": labels, "pixel_values": pixels}


def as_text(shape: Shape, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turns rows with images into text rows for the bare LLM: a word replaces each image token."""
    ids = batch["input_ids"].clamp(max=shape.vocabulary - 1)
    return {"input_ids": ids, "labels": batch["labels"]}


def layout(shape: Shape, batch: int, length: int, device: torch.device) -> TokenLayout:
    """The layout of such rows."""
    kinds = torch.full((batch, length), TEXT, device=device)
    kinds[:, BEFORE : BEFORE + shape.image_tokens] = IMAGE
    return TokenLayout.read(kinds, None, None, [shape.image_tokens])


@dataclass(frozen=True)
class Inputs:
    """Tensors that have a gradient, by name; subclasses add what goes with them."""

    tensors: dict[str, Tensor]

    def __getattr__(self, name: str) -> Tensor:
        if name not in self.__dict__.get("tensors", {}):
            raise AttributeError(name)
        return self.tensors[name]

    def double(self) -> "Inputs":
        """A copy with all numbers in float64."""
        return replace(self, tensors={name: t.double() for name, t in self.tensors.items()})


class RoutedInputs(Inputs):
    """q `[B, H, T, d]`, k and v `[B, G, T, d]`, columns `[B, T, C]`; causal."""

    @property
    def scale(self) -> float:
        return self.q.shape[-1] ** -0.5

    @property
    def position(self) -> Tensor:
        """`[B, T]`."""
        return torch.arange(self.q.shape[2], device=self.q.device).expand(len(self.q), -1)

    @property
    def visible_at(self) -> Tensor:
        """`[B, T]`, the position from which on each key is visible."""
        return self.position

    @cached_property
    def visible(self) -> Tensor:
        """`[1, T, T]` bool."""
        length = self.q.shape[2]
        return torch.ones(1, length, length, dtype=torch.bool, device=self.q.device).tril()


@dataclass(frozen=True)
class LearnerInputs(Inputs):
    """Inputs of one learner in one block.

    tensors: x `[B, T, D]`; query_part = x A_q `[B, T, r]`; the source tokens s as tokens
    `[B, S, D]`; compressed = s A_k and s A_v `[B, 2, S, r]`; b_q, b_k, b_v `[r, D]`, a_o `[D, r]`.
    """

    queries: TokenLayout
    keys: TokenLayout
    rope: CosSin
    key_rope: CosSin

    @property
    def heads(self) -> int:
        return self.x.shape[-1] // self.rope.table.shape[-1]

    @property
    def factors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.b_q, self.b_k, self.b_v, self.a_o

    @property
    def position(self) -> Tensor:
        return self.queries.position

    @property
    def visible_at(self) -> Tensor:
        return self.keys.visible_at

    @cached_property
    def visible(self) -> Tensor:
        """`[B, T, S]` bool."""
        return self.queries.sees(self.keys)

    @cached_property
    def mask(self) -> LearnerMask:
        """The mask for torch; made once, as a pass makes it once for all blocks."""
        return LearnerMask(self.queries, self.keys, continued=False)

    @cached_property
    def fused_mask(self) -> LearnerMask:
        """The mask for the kernels, with key ranges."""
        return LearnerMask(self.queries, self.keys, continued=False, fused=True)

    def source(self, impl: str, recompute_kv: bool = False) -> SourceTokens:
        """The source tokens of a pass that runs in `impl`."""
        mask = self.fused_mask if impl == "triton" else self.mask
        return SourceTokens(
            self.keys, self.tensors["tokens"], self.key_rope, mask, impl, recompute_kv
        )

    def double(self) -> "LearnerInputs":
        """A copy with all numbers in float64."""
        ropes = (CosSin.of(rope.table.double()) for rope in (self.rope, self.key_rope))
        wide = {name: tensor.double() for name, tensor in self.tensors.items()}
        return LearnerInputs(wide, self.queries, self.keys, *ropes)


def operation_inputs(
    what: str, shape: Shape, batch: int, length: int, dtype: torch.dtype, device: torch.device
) -> RoutedInputs | LearnerInputs:
    """Random inputs of an operation, as a block of a model has them."""
    if what == ROUTED:
        return routed_inputs(shape, batch, length, dtype, device)
    return learner_inputs(shape, layout(shape, batch, length, device), KINDS[what], dtype)


def routed_inputs(
    shape: Shape, batch: int, length: int, dtype: torch.dtype, device: torch.device
) -> RoutedInputs:
    """Transposed views of `[B, T, H, d]`, as the projections of a decoder give them."""

    def heads(count: int) -> Tensor:
        wide = torch.randn(batch, length, count, shape.head_width, device=device, dtype=dtype)
        return wide.transpose(1, 2)

    columns = torch.randn(batch, length, COLUMNS, device=device, dtype=dtype)
    q, k, v = (heads(count) for count in (shape.heads, shape.key_heads, shape.key_heads))
    return RoutedInputs({"q": q, "k": k, "v": v, "columns": columns})


def learner_inputs(
    shape: Shape, queries: TokenLayout, kind: int, dtype: torch.dtype
) -> LearnerInputs:
    """Inputs of the learner of `kind`, `IMAGE` or `TEXT`, in rows of this layout."""
    wanted = queries.kind == kind
    columns = wanted_columns(wanted)
    assert columns is not None, "the rows have tokens of this kind"
    keys = queries.gather(columns).padded_where(~wanted.gather(1, columns))
    (batch, length), device = queries.kind.shape, queries.table.device
    width, rank = shape.width, shape.rank

    def randn(*size: int, std: float = 1.0) -> Tensor:
        return (torch.randn(*size, device=device) * std).to(dtype)

    rotary = RotaryEmbedding(shape.head_width, DEFAULT_BASE)
    x, source = randn(batch, length, width), randn(batch, keys.length, width)
    a_q, a_k, a_v, a_o = (randn(width, rank, std=width**-0.5) for _ in range(4))
    b_q, b_k, b_v = (randn(rank, width, std=rank**-0.5) for _ in range(3))
    tensors = {
        "x": x, "query_part": x @ a_q, "tokens": source,
        "compressed": torch.stack([source @ a_k, source @ a_v], dim=1),
        "b_q": b_q, "b_k": b_k, "b_v": b_v, "a_o": a_o,
    }  # fmt: skip
    ropes = (rotary.at(at.position, dtype) for at in (queries, keys))
    return LearnerInputs(tensors, queries, keys, *ropes)
