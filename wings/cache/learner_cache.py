"""`LearnerCache`: the learners' part of a cache of past tokens."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from wings.attention.rotary import CosSin, RotaryEmbedding
from wings.attention.source_tokens import (
    LayerZero,
    NewTokens,
    gather_tokens,
    pick,
    wanted_columns,
)
from wings.attention.token_layout import PADDING, TEXT, TokenLayout
from wings.sense import Sense, SourceKind

from .block_cache import BlockCache, GrowableBuffer, StaticBuffer

# The slot of a feature whose token comes in a later chunk: past any that a text can have.
LATER = torch.iinfo(torch.long).max

MakeBuffer = Callable[..., GrowableBuffer]


@dataclass(frozen=True)
class PendingFeatures:
    """Features of items whose tokens come in the next chunk: `[B, P, D]`, `count [B]` a row."""

    features: Tensor
    count: Tensor

    @property
    def counts(self) -> list[int]:
        """Number of features that each row of the batch waits for."""
        return self.count.tolist()

    def of(self, row: int) -> Tensor:
        """`[n, D]`."""
        return self.features[row, : int(self.count[row])]


class ProductsOfLearner:
    """Each block's products of the source tokens of one learner, by block.

    Attributes:
        source: its source tokens.
        blocks: of the blocks that have the learner.
        keeps_keys: whether the products hold whole keys.
        is_behind: with static buffers, whether the blocks lack products of earlier tokens.
    """

    def __init__(
        self, source: "SourceCache", make: MakeBuffer, layers: tuple[int, ...], keeps_keys: bool
    ) -> None:
        self.source, self.keeps_keys = source, keeps_keys
        self.blocks = {layer: BlockCache(make, keeps_keys) for layer in layers}
        # Tokens that the blocks have products of.
        self.cached = 0
        self.is_behind = False

    def take_new(self, appended: tuple[Tensor, CosSin] | None) -> NewTokens | None:
        """The tokens that all blocks of this pass must add to their products, or None.

        `appended` are those of this pass. There are more after passes in which the learner did
        not act, such as text under the text guard.
        """
        source = self.source
        tokens, ropes = source.tokens.value, source.ropes.value
        if tokens is None or ropes is None:
            return None
        if isinstance(source.tokens, StaticBuffer):
            # A recorded step has fixed shapes: it adds its own tokens, or everything at once.
            if self.is_behind:
                self.is_behind = False
                return NewTokens(tokens, CosSin.of(ropes), source.tokens.count)
            return None if appended is None else NewTokens(*appended)
        start, self.cached = self.cached, source.tokens.length
        if start == self.cached:
            return None
        # The usual case shares cos and sin that are there already.
        if appended is not None and appended[0].shape[1] == self.cached - start:
            return NewTokens(*appended)
        return NewTokens(tokens[:, start:], CosSin.of(ropes[:, start:]))

    def leave_keys_out(self) -> None:
        """Keeps no whole keys from now on, unless some are kept already."""
        blocks = self.blocks.values()
        if self.keeps_keys and all(b.keys is None or b.keys.value is None for b in blocks):
            self.keeps_keys = False
            for block in blocks:
                block.leave_keys_out()

    def buffers(self) -> list[GrowableBuffer]:
        """Everything that its blocks keep."""
        return [b for block in self.blocks.values() for b in (block.compressed, block.keys) if b]


class SourceCache:
    """The source tokens of one kind, once for all learners that read them.

    layouts: `[B, n, 5]`, kind `PADDING` where a row of the batch has none. slots: which token each
    is, `[B, n]`. tokens: `[B, n, D]`. ropes: cos and sin of their positions, `[B, n, d]`.
    """

    def __init__(self, make: MakeBuffer) -> None:
        self.make = make
        self.layouts, self.slots = make(PADDING), make(-1)
        self.tokens, self.ropes = make(0), make(0)
        self.layout: TokenLayout | None = None
        self.readers: list[ProductsOfLearner] = []

    def reader(self, layers: tuple[int, ...], keeps_keys: bool) -> ProductsOfLearner:
        """The products of a further learner of these tokens."""
        self.readers.append(ProductsOfLearner(self, self.make, layers, keeps_keys))
        return self.readers[-1]

    def append(self, layout: TokenLayout, slots: Tensor, tokens: Tensor, rope: CosSin) -> None:
        """Takes in new tokens, `[B, n]`."""
        self.layout = TokenLayout(self.layouts.append(layout.table))
        self.slots.append(slots)
        self.tokens.append(tokens)
        self.ropes.append(rope.table)

    def cut(self, tokens: int) -> None:
        """Drops what belongs to tokens from `tokens` on."""
        layout, slots = self.layout, self.slots.value
        if layout is None or slots is None:
            return
        gone = slots >= tokens
        self.layouts.replace(layout.padded_where(gone).table)
        # Rows of the batch lose different numbers of entries; only a tail that no row needs goes.
        slots = slots.masked_fill(gone, -1)
        self.slots.replace(slots)
        left = (slots >= 0).any(0).nonzero()
        length = int(left[-1]) + 1 if len(left) else 0
        for buffer in self._buffers():
            buffer.cut(length)
        self.layout = layout_in(self.layouts)
        for reader in self.readers:
            reader.cached = min(reader.cached, length)

    def change_batch(self, change: Callable[[Tensor], Tensor]) -> None:
        """Reorders, repeats or selects rows of the batch."""
        for buffer in self._buffers():
            buffer.change_batch(change)
        self.layout = layout_in(self.layouts)

    def _buffers(self) -> list[GrowableBuffer]:
        products = [buffer for reader in self.readers for buffer in reader.buffers()]
        return [self.layouts, self.slots, self.tokens, self.ropes, *products]


class LearnerCache:
    """Every token's layout, and for each learner the source tokens that it reads.

    A source token is a layer-0 embedding. With the products that blocks keep, a token costs
    D + d + 2 r L numbers for the learners (d: the width of their heads). Whole keys and values
    would cost 2 D L. Small models also keep the keys (D L numbers): recomputing them at every step
    would be the larger part of a small model's step.

    Args:
        senses: of the model.
        keeps_keys: the senses whose learners keep whole keys.
        capacity: tokens of static buffers; None for growing ones.

    Attributes:
        layout: of all tokens so far, or None; with static buffers, of the whole capacity.
        length: how many tokens there are, a tensor with static buffers.
        products: of each learner, by the name of its modules.
        pending: by kind, features of items whose tokens come in the next chunk.
        begun: the kinds of which an item has begun.
        is_packed: whether a row holds several sequences.
    """

    def __init__(
        self,
        senses: Iterable[Sense],
        keeps_keys: Collection[str] = (),
        capacity: int | None = None,
    ) -> None:
        self.senses = tuple(senses)
        self.keeps_keys, self.capacity = keeps_keys, capacity
        self.reset()

    def reset(self) -> None:
        """Drops every token."""
        self.layouts = self._make(PADDING)
        self.layout: TokenLayout | None = None
        self.length: int | Tensor = self._count()
        self.sources: dict[SourceKind, SourceCache] = {}
        self.products: dict[str, ProductsOfLearner] = {}
        for sense in self.senses:
            for module, reads in zip(sense.modules, sense.reads, strict=True):
                if reads not in self.sources:
                    # Features of items come with items only, never while a compiled step runs.
                    make = self._make if reads.kind == TEXT else _growable
                    self.sources[reads] = SourceCache(make)
                self.products[module] = self.sources[reads].reader(
                    sense.layers, sense.name in self.keeps_keys
                )
        self.pending: dict[int, PendingFeatures] = {}
        self.begun: set[int] = set()
        self.is_packed = False

    def _make(self, fill: int, dim: int = 1) -> GrowableBuffer:
        return (
            GrowableBuffer(dim) if self.capacity is None else StaticBuffer(self.capacity, fill, dim)
        )

    def _count(self) -> int | Tensor:
        buffer = self.layouts
        return buffer.count if isinstance(buffer, StaticBuffer) else buffer.length

    def _settle(self) -> None:
        self.layout, self.length = layout_in(self.layouts), self._count()

    def is_static_step(self, layout: TokenLayout) -> bool:
        """True if a pass is one step with static buffers, which may be compiled or recorded.

        Nothing may depend on the values of its tensors there: it brings one text token a row.
        """
        is_static, is_first = self.capacity is not None, self.layout is None
        return is_static and not is_first and not self.pending and layout.length == 1

    def append(
        self,
        layout: TokenLayout,
        tokens: LayerZero,
        later: Mapping[int, tuple[TokenLayout, Tensor]],
        rotary: RotaryEmbedding,
        acting: Collection[str],
        beginning: Collection[int],
    ) -> dict[str, NewTokens | None]:
        """Takes in the tokens of a pass.

        Args:
            layout: of the new tokens, `[B, T]`.
            tokens: their layer-0 embeddings.
            later: by kind, layout and features `[B, P, D]` of items that go on in the next chunk.
            rotary: the learners' rotary positions.
            acting: the senses whose learners act in this pass.
            beginning: the kinds of the items that begin among the tokens.

        Returns:
            For each acting learner what its blocks must add to their products in this pass.
        """
        before = self.length
        if isinstance(before, Tensor):
            # The count itself changes with the append.
            before = before.clone()
        self.layout = TokenLayout(self.layouts.append(layout.table))
        self.length = self._count()
        appended = {
            reads: self._append_source(
                source, reads, layout, tokens, later.get(reads.kind), rotary, before,
                reads.kind == TEXT or reads.kind in beginning,
            )
            for reads, source in self.sources.items()
        }  # fmt: skip
        new: dict[str, NewTokens | None] = {}
        for sense in self.senses:
            for module, reads in zip(sense.modules, sense.reads, strict=True):
                if sense.name in acting:
                    new[module] = self.products[module].take_new(appended[reads])
                else:
                    # Blocks do not run their learners, so they have no products of these tokens.
                    self.products[module].is_behind = True
        return new

    def _append_source(
        self,
        source: SourceCache,
        reads: SourceKind,
        layout: TokenLayout,
        tokens: LayerZero,
        later: tuple[TokenLayout, Tensor] | None,
        rotary: RotaryEmbedding,
        before: int | Tensor,
        has_new: bool,
    ) -> tuple[Tensor, CosSin] | None:
        wanted = layout.kind == reads.kind
        pending = self.pending.get(reads.kind)
        if not has_new and pending is None:
            return None
        if pending is not None:
            wanted = self._without_pending(source, wanted, pending, before)
        parts: tuple[TokenLayout, Tensor, Tensor] | None = None
        if layout.length == 1 and not self.pending:
            # While decoding, padding takes a slot: asking for it would wait for the GPU.
            keys = layout.padded_where(~wanted)
            step = tokens.of(reads) if reads.normalized else tokens.plain
            parts = keys, torch.where(keys.kind == PADDING, -1, before), step
        elif has_new:
            columns = wanted_columns(wanted)
            if columns is not None:
                keys, picked = pick(layout, tokens.of(reads), wanted, columns)
                slots = torch.where(keys.kind == PADDING, -1, columns + before)
                parts = keys, slots, picked
        if later is not None:
            more, features = later
            slots = torch.where(more.kind == PADDING, -1, LATER)
            parts = _joined(parts, (more, slots, LayerZero(features).of(reads)))
        if parts is None:
            return None
        keys, slots, picked = parts
        rope = rotary.at(keys.position, picked.dtype)
        source.append(keys, slots, picked, rope)
        return picked, rope

    def _without_pending(
        self, source: SourceCache, is_item: Tensor, pending: PendingFeatures, before: int | Tensor
    ) -> Tensor:
        """Item tokens `[B, T]` of items that begin here, not in an earlier chunk.

        The features of the others are there already, and now get their slots.
        """
        old = is_item & (is_item.long().cumsum(1) <= pending.count[:, None])
        columns = wanted_columns(old)
        if columns is not None:
            slots = source.slots.value
            assert slots is not None, "features that wait have slots"
            # Features were stored in the order of their tokens: the n-th is the n-th token's.
            nth = (slots == LATER).long().cumsum(1) - 1
            known = (slots == LATER) & (nth < old.sum(1, keepdim=True))
            slot = before + columns.gather(1, nth.clamp(0, columns.shape[1] - 1))
            source.slots.replace(torch.where(known, slot, slots))
        return is_item & ~old

    def cut(self, tokens: int) -> None:
        """Keeps the first `tokens` tokens."""
        if tokens >= self.length:
            return
        if tokens == 0:
            self.reset()
            return
        # Features that wait for the next chunk follow a token that is gone.
        self.pending = {}
        self.layouts.cut(tokens)
        self._settle()
        for source in self.sources.values():
            source.cut(tokens)
        if self.layout is not None:
            kind = self.layout.kind
            self.begun = {number for number in self.begun if bool((kind == number).any())}

    def change_batch(self, change: Callable[[Tensor], Tensor]) -> None:
        """Reorders, repeats or selects rows of the batch."""
        self.layouts.change_batch(change)
        self._settle()
        for source in self.sources.values():
            source.change_batch(change)
        self.pending = {
            kind: PendingFeatures(change(one.features), change(one.count))
            for kind, one in self.pending.items()
        }


def _growable(fill: int, dim: int = 1) -> GrowableBuffer:
    """A buffer that needs no fill, as its spare capacity is never read."""
    return GrowableBuffer(dim)


def _joined(
    old: tuple[TokenLayout, Tensor, Tensor] | None, new: tuple[TokenLayout, Tensor, Tensor]
) -> tuple[TokenLayout, Tensor, Tensor]:
    """Layout, slots and tokens of both, `[B, n + P]`, with the padding of each row last."""
    if old is None:
        return new
    layout, tokens = new[0].after(old[0]), torch.cat([old[2], new[2].to(old[2])], dim=1)
    slots = torch.cat([old[1], new[1]], dim=1)
    order = torch.argsort((layout.kind == PADDING).long(), dim=1, stable=True)
    return layout.gather(order), slots.gather(1, order), gather_tokens(tokens, order)


def layout_in(layouts: GrowableBuffer) -> TokenLayout | None:
    """The layout whose table the buffer holds, or None."""
    return None if layouts.value is None else TokenLayout(layouts.value)
