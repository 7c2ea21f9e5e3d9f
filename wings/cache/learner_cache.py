"""`LearnerCache`: the learners' part of a cache of past tokens."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wings.attention.rotary import CosSin, RotaryEmbedding
from wings.attention.source_tokens import NewTokens, gather_tokens, pick, wanted_columns
from wings.attention.token_layout import IMAGE, KINDS, PADDING, TEXT, TokenLayout

from .block_cache import BlockCache, GrowableBuffer, StaticBuffer

# The slot of an image feature whose token comes in a later chunk: past any that a text can have.
LATER = torch.iinfo(torch.long).max


@dataclass(frozen=True)
class PendingFeatures:
    """Image features whose tokens come in the next chunk: `[B, P, D]`, `count [B]` of each row."""

    features: Tensor
    count: Tensor

    @property
    def counts(self) -> list[int]:
        """Number of features that each row of the batch waits for."""
        return self.count.tolist()

    def of(self, row: int) -> Tensor:
        """`[n, D]`."""
        return self.features[row, : int(self.count[row])]


class SourceCache:
    """The source tokens of one modality: once for all blocks, and each block's products of them.

    layouts: `[B, n, 5]`, kind `PADDING` where a row of the batch has none. slots: which token each
    is, `[B, n]`. tokens: `[B, n, D]`. ropes: cos and sin of their positions, `[B, n, d]`.
    """

    def __init__(
        self, make: Callable[..., GrowableBuffer], layers: tuple[int, ...], keeps_keys: bool
    ) -> None:
        self.layouts, self.slots = make(PADDING), make(-1)
        self.tokens, self.ropes = make(0), make(0)
        self.layout: TokenLayout | None = None
        self.blocks = {layer: BlockCache(make, keeps_keys) for layer in layers}
        self.keeps_keys = keeps_keys
        # Tokens that the blocks have products of; with static buffers, whether it is all of them.
        self.cached = 0
        self.is_behind = False

    def append(self, layout: TokenLayout, slots: Tensor, tokens: Tensor, rope: CosSin) -> None:
        """Takes in new tokens, `[B, n]`."""
        self.layout = TokenLayout(self.layouts.append(layout.table))
        self.slots.append(slots)
        self.tokens.append(tokens)
        self.ropes.append(rope.table)

    def take_new(self, appended: tuple[Tensor, CosSin] | None) -> NewTokens | None:
        """The tokens that all blocks of this pass must add to their products, or None.

        `appended` are those of this pass. There are more after passes in which the learners did
        not act, such as text under the text guard.
        """
        tokens, ropes = self.tokens.value, self.ropes.value
        if tokens is None or ropes is None:
            return None
        if isinstance(self.tokens, StaticBuffer):
            # A recorded step has fixed shapes: it adds its own tokens, or everything at once.
            if self.is_behind:
                self.is_behind = False
                return NewTokens(tokens, CosSin.of(ropes), self.tokens.count)
            return None if appended is None else NewTokens(*appended)
        start, self.cached = self.cached, self.tokens.length
        if start == self.cached:
            return None
        # The usual case shares cos and sin that are there already.
        if appended is not None and appended[0].shape[1] == self.cached - start:
            return NewTokens(*appended)
        return NewTokens(tokens[:, start:], CosSin.of(ropes[:, start:]))

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
        self.cached = min(self.cached, length)

    def change_batch(self, change: Callable[[Tensor], Tensor]) -> None:
        """Reorders, repeats or selects rows of the batch."""
        for buffer in self._buffers():
            buffer.change_batch(change)
        self.layout = layout_in(self.layouts)

    def _buffers(self) -> list[GrowableBuffer]:
        blocks = [b for block in self.blocks.values() for b in (block.compressed, block.keys) if b]
        return [self.layouts, self.slots, self.tokens, self.ropes, *blocks]


class LearnerCache:
    """Every token's layout, and for each learner the source tokens of its modality.

    A source token is a layer-0 embedding. With the products that blocks keep, a token costs
    D + d + 2 r L numbers for the learners (d: the width of their heads). Whole keys and values
    would cost 2 D L. Small models also keep the keys (D L numbers): recomputing them at every step
    would be the larger part of a small model's step.

    Attributes:
        layout: of all tokens so far, or None; with static buffers, of the whole capacity.
        length: how many tokens there are, a tensor with static buffers.
        pending: image features whose tokens come in the next chunk, or None.
        has_images: whether an image has begun.
        is_packed: whether a row holds several sequences.
    """

    def __init__(
        self,
        learners: tuple[str, ...],
        layers: tuple[int, ...],
        keeps_keys: bool = False,
        capacity: int | None = None,
    ) -> None:
        self.learners, self.layers = learners, layers
        self.keeps_keys, self.capacity = keeps_keys, capacity
        self.reset()

    def reset(self) -> None:
        """Drops every token."""
        self.layouts = self._make(PADDING)
        self.layout: TokenLayout | None = None
        self.length: int | Tensor = self._count()
        # Image features come with a picture only, never while a compiled step runs.
        self.sources = {
            name: SourceCache(
                self._make if KINDS[name] == TEXT else _growable, self.layers, self.keeps_keys
            )
            for name in self.learners
        }
        self.pending: PendingFeatures | None = None
        self.has_images = self.is_packed = False

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
        return is_static and not is_first and self.pending is None and layout.length == 1

    def append(
        self,
        layout: TokenLayout,
        tokens: Tensor,
        later: tuple[TokenLayout, Tensor] | None,
        rotary: RotaryEmbedding,
        enabled: bool,
        has_pictures: bool,
    ) -> dict[str, NewTokens | None]:
        """Takes in the tokens of a pass.

        Args:
            layout: of the new tokens, `[B, T]`.
            tokens: their layer-0 embeddings, `[B, T, D]`.
            later: layout and features `[B, P, D]` of images that go on in the next chunk.
            rotary: the learners' rotary positions.
            enabled: whether the learners act in this pass.
            has_pictures: whether an image begins among the tokens.

        Returns:
            For each learner what its blocks must add to their products in this pass.
        """
        before = self.length
        if isinstance(before, Tensor):
            # The count itself changes with the append.
            before = before.clone()
        self.layout = TokenLayout(self.layouts.append(layout.table))
        self.length = self._count()
        new: dict[str, NewTokens | None] = {}
        for name, source in self.sources.items():
            appended = self._append_source(
                source, KINDS[name], layout, tokens, later, rotary, before, has_pictures
            )
            if enabled:
                new[name] = source.take_new(appended)
            else:
                # Blocks do not run their learners, so they have no products of these tokens.
                source.is_behind = True
        return new

    def _append_source(
        self,
        source: SourceCache,
        kind: int,
        layout: TokenLayout,
        tokens: Tensor,
        later: tuple[TokenLayout, Tensor] | None,
        rotary: RotaryEmbedding,
        before: int | Tensor,
        has_pictures: bool,
    ) -> tuple[Tensor, CosSin] | None:
        wanted = layout.kind == kind
        if kind == IMAGE and not has_pictures and self.pending is None:
            return None
        if kind == IMAGE and self.pending is not None:
            wanted = self._without_pending(wanted, self.pending, before)
        parts: tuple[TokenLayout, Tensor, Tensor] | None = None
        if layout.length == 1 and self.pending is None:
            # While decoding, padding takes a slot: asking for it would wait for the GPU.
            keys = layout.padded_where(~wanted)
            parts = keys, torch.where(keys.kind == PADDING, -1, before), tokens
        elif kind == TEXT or has_pictures:
            columns = wanted_columns(wanted)
            if columns is not None:
                keys, picked = pick(layout, tokens, wanted, columns)
                parts = keys, torch.where(keys.kind == PADDING, -1, columns + before), picked
        if kind == IMAGE and later is not None:
            more, features = later
            slots = torch.where(more.kind == PADDING, -1, LATER)
            parts = _joined(parts, (more, slots, features))
        if parts is None:
            return None
        keys, slots, picked = parts
        rope = rotary.at(keys.position, picked.dtype)
        source.append(keys, slots, picked, rope)
        return picked, rope

    def _without_pending(
        self, is_image: Tensor, pending: PendingFeatures, before: int | Tensor
    ) -> Tensor:
        """Image tokens `[B, T]` of images that begin here, not in an earlier chunk.

        The features of the others are there already, and now get their slots.
        """
        old = is_image & (is_image.long().cumsum(1) <= pending.count[:, None])
        columns = wanted_columns(old)
        if columns is not None:
            slots = self.sources["image"].slots.value
            assert slots is not None, "features that wait have slots"
            # Features were stored in the order of their tokens: the n-th is the n-th token's.
            nth = (slots == LATER).long().cumsum(1) - 1
            known = (slots == LATER) & (nth < old.sum(1, keepdim=True))
            slot = before + columns.gather(1, nth.clamp(0, columns.shape[1] - 1))
            self.sources["image"].slots.replace(torch.where(known, slot, slots))
        return is_image & ~old

    def cut(self, tokens: int) -> None:
        """Keeps the first `tokens` tokens."""
        if tokens >= self.length:
            return
        if tokens == 0:
            self.reset()
            return
        # Features that wait for the next chunk follow a token that is gone.
        self.pending = None
        self.layouts.cut(tokens)
        self._settle()
        for source in self.sources.values():
            source.cut(tokens)
        if self.has_images and self.layout is not None:
            self.has_images = bool((self.layout.kind == IMAGE).any())

    def change_batch(self, change: Callable[[Tensor], Tensor]) -> None:
        """Reorders, repeats or selects rows of the batch."""
        self.layouts.change_batch(change)
        self._settle()
        for source in self.sources.values():
            source.change_batch(change)
        if self.pending is not None:
            self.pending = PendingFeatures(
                change(self.pending.features), change(self.pending.count)
            )


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
