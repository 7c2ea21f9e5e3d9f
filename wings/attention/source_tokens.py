"""`SourceTokens`: the layer-0 tokens of one kind that a pass can see."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from wings.sense import SourceKind

from .learner_attention import apply_rope
from .learner_mask import LearnerMask
from .rotary import CosSin
from .token_layout import TokenLayout


class ProductsCache(Protocol):
    """A block's cached products of source tokens; `wings.cache.block_cache.BlockCache` is one."""

    keeps_keys: bool

    def update(
        self, compressed: Tensor | None, keys: Tensor | None, length: Tensor | None
    ) -> tuple[Tensor, Tensor | None]: ...


class LayerZero:
    """Layer-0 embeddings `[B, T, D]`, as they are and RMS-normalised, which is done once."""

    def __init__(self, embeddings: Tensor) -> None:
        self.plain = embeddings
        self._normalized: Tensor | None = None

    def of(self, reads: SourceKind) -> Tensor:
        """The embeddings as learners of that kind read them."""
        if not reads.normalized:
            return self.plain
        if self._normalized is None:
            self._normalized = normalized(self.plain)
        return self._normalized


@dataclass(frozen=True)
class NewTokens:
    """Source tokens whose keys and values no block has cached yet.

    tokens: `[B, n, D]`. rope: of their positions. length: for a static cache that refills all of
    its rows, how many of them are in use; else None, and the tokens are appended.
    """

    tokens: Tensor
    rope: CosSin
    length: Tensor | None = None

    def like(self, x: Tensor) -> "NewTokens":
        """A copy on the device and in the dtype of `x`."""
        return NewTokens(self.tokens.to(x), self.rope.like(x), self.length)


@dataclass(frozen=True)
class DecodeSource:
    """The source tokens in the forms that a decode step reads.

    rope_table: cos and sin of their positions, `[B, S, d]`. heads: `[B H, S, d]`, or None for the
    kernel, which reads the tokens as they are. roped: the tokens after their rotary positions,
    `[B, H, d, S]`, or None for the kernel and where blocks cache whole keys.
    """

    rope_table: Tensor
    heads: Tensor | None
    roped: Tensor | None

    @classmethod
    def of(cls, tokens: Tensor, rope_table: Tensor, has_keys: bool, impl: str) -> "DecodeSource":
        """From `[B, S, D]` and `[B, S, d]`."""
        if impl == "triton":
            return cls(rope_table, None, None)
        # Both forms are shared by all blocks of a step; made in each they would be the larger part
        # of a learner's work on one token.
        heads = tokens.unflatten(-1, (-1, rope_table.shape[-1]))
        roped = None
        if not has_keys:
            roped = apply_rope(heads, CosSin.of(rope_table)).permute(0, 2, 3, 1)
        return cls(rope_table, heads.transpose(1, 2).flatten(0, 1), roped)


@dataclass(frozen=True)
class SourceTokens:
    """Tokens of one kind, `[B, S]`, as one learner of every block sees them in a pass.

    Attributes:
        layout: of the tokens.
        tokens: their layer-0 embeddings, `[B, S, D]`.
        rope: of their positions; None in a decode step.
        mask: which of them each query sees.
        impl: "torch" or "triton".
        recompute_kv: whether a backward recomputes keys and values.
        new: what blocks have not cached yet, or None.
        blocks: each block's cache, by block number; None in a pass without a cache.
        decode: the forms for a pass of one token a row, else None.
    """

    layout: TokenLayout
    tokens: Tensor
    rope: CosSin | None
    mask: LearnerMask
    impl: str
    recompute_kv: bool = False
    new: NewTokens | None = None
    blocks: Mapping[int, ProductsCache] | None = None
    decode: DecodeSource | None = None

    def like(self, x: Tensor) -> "SourceTokens":
        """A copy on the device and in the dtype of `x`."""
        moved = self.tokens.device != x.device
        decode = self.decode
        if decode is not None:
            table = decode.rope_table.to(x)
            decode = DecodeSource.of(self.tokens.to(x), table, decode.roped is None, self.impl)
        return replace(
            self,
            layout=self.layout.to(x.device) if moved else self.layout,
            tokens=self.tokens.to(x),
            rope=None if self.rope is None else self.rope.like(x),
            mask=self.mask.to(x.device) if moved else self.mask,
            new=None if self.new is None else self.new.like(x),
            decode=decode,
        )


def wanted_columns(wanted: Tensor) -> Tensor | None:
    """The True columns of each row first, in order, as many as the fullest row has; None for none.

    `[B, T]` bool -> `[B, n]`; rows with fewer go on with columns that are not wanted.
    """
    # The only value that a pass without a cache reads back from a GPU: sizes of tensors follow it.
    count = int(wanted.sum(1).max()) if wanted.numel() else 0
    if not count:
        return None
    # Stable, so that keys stay in order: ranges and segments rely on it.
    return torch.argsort((~wanted).long(), dim=1, stable=True)[:, :count]


def gather_tokens(tokens: Tensor, columns: Tensor) -> Tensor:
    """`[B, T, D]` at `columns [B, n]` -> `[B, n, D]`."""
    return tokens.gather(1, columns[..., None].expand(-1, -1, tokens.shape[-1]))


def pick(
    layout: TokenLayout, tokens: Tensor, wanted: Tensor, columns: Tensor
) -> tuple[TokenLayout, Tensor]:
    """Layout and tokens at `columns [B, n]`, `PADDING` where a column is not `wanted [B, T]`."""
    # Rows with fewer tokens hold others in their place, which no query may see.
    picked = layout.gather(columns).padded_where(~wanted.gather(1, columns))
    return picked, gather_tokens(tokens, columns)


def normalized(embeddings: Tensor) -> Tensor:
    """RMS norm without weights of layer-0 embeddings, `[B, T, D]`."""
    return torch.nn.functional.rms_norm(embeddings, embeddings.shape[-1:], eps=1e-6)
