"""`Memory`: what the learners keep of past tokens while a text goes on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor

from wings.attention.rotary import Rotary, Rotation
from wings.attention.source_tokens import Kept, Source
from wings.attention.token_layout import IMAGE, KINDS, PADDING, TEXT, Layout
from wings.layers.lorra import Factors
from wings.layers.lorra_attention import turned_keys

from .buffers import FixedRows, Rows

# The slot of an image row whose token comes in a later chunk: past any that a text can have.
LATER = torch.iinfo(torch.long).max
# Where the n rows stand in what a block keeps of them, `[B, 2, n, r]` and keys `[B, H, d, n]`: what
# one query reads stands side by side.
SMALL, KEYS = 2, 3


@dataclass
class Pending:
    """Image features whose tokens come in the next chunk: rows `[B, P, D]`, `count [B]` of each."""

    rows: Tensor
    count: Tensor

    @property
    def counts(self) -> list[int]:
        """How many features each row of the batch waits for."""
        return self.count.tolist()

    def of(self, row: int) -> Tensor:
        """`[n, D]`."""
        return self.rows[row, : int(self.count[row])]


class SourceMemory:
    """The rows of one modality: once for all blocks, and a few numbers of each row per block.

    keys: layouts `[B, n, 5]`, kind `PADDING` where a row of the batch has none. slots: which token
    each row is, `[B, n]`. rows: `[B, n, D]`. turns: cos and sin of their positions, `[B, n, d]`.
    """

    def __init__(self, make: Callable[..., Rows], keeps_keys: bool) -> None:
        self._make, self.keeps_keys = make, keeps_keys
        self.keys, self.slots, self.rows, self.turns = make(PADDING), make(-1), make(0), make(0)
        self.blocks: dict[int, list[Rows]] = {}
        self.new: tuple[Tensor, Rotation] | None = None
        # Whether a fixed memory has rows that blocks know nothing of yet: text under its guard.
        self.is_behind = self.catches_up = False

    def append(self, keys: Tensor, slots: Tensor, rows: Tensor, rotation: Rotation) -> None:
        """Takes in new rows, all of one length n."""
        self.keys.append(keys)
        self.slots.append(slots)
        self.rows.append(rows)
        self.turns.append(rotation.table)
        self.new = rows, rotation

    def kept(self, layer: int, factors: Factors, source: Source) -> Kept:
        """What block `layer` keeps of all rows, of which only the new are worked out.

        `source` holds the memory's rows, where and in the dtype in which the block computes.
        """
        blocks = self.blocks.get(layer)
        if blocks is None:
            blocks = self.blocks[layer] = [self._make(0, SMALL)]
            if self.keeps_keys:
                blocks.append(self._make(0, KEYS))
        if isinstance(self.rows, FixedRows) and are_fixed(blocks):
            if self.catches_up:
                fresh = self._work_out(factors, source.rows, source.rotation)
                for room, numbers in zip(blocks, fresh, strict=True):
                    room.refill(numbers, self.rows.count)
            elif self.new is not None:
                rows, rotation = self.new[0].to(source.rows), self.new[1].like(source.rows)
                self._append(blocks, self._work_out(factors, rows, rotation))
        elif (length := blocks[0].length) < source.rows.shape[1]:
            rows = source.rows[:, length:]
            if self.new is not None and self.new[0].shape[1] == rows.shape[1]:
                # One rotation for all blocks, which keeps what it has worked out.
                rotation = self.new[1].like(rows)
            else:
                rotation = Rotation(source.rotation.table[:, length:])
            self._append(blocks, self._work_out(factors, rows, rotation))
        return Kept(*(room.all.to(source.rows) for room in blocks))

    def _work_out(self, factors: Factors, rows: Tensor, rotation: Rotation) -> list[Tensor]:
        small = factors.compress(rows)
        if not self.keeps_keys:
            return [small]
        keys = turned_keys(rows, small[:, 0], factors.b_k, rotation)
        return [small, keys.permute(0, 2, 3, 1)]

    @staticmethod
    def _append(blocks: Sequence[Rows], fresh: list[Tensor]) -> None:
        for rows, numbers in zip(blocks, fresh, strict=True):
            rows.append(numbers)

    def cut(self, tokens: int) -> None:
        """Forgets the rows of all tokens from `tokens` on."""
        if self.keys.buffer is None:
            return
        gone = self.slots.all >= tokens
        keys = self.keys.all.clone()
        keys[..., 3].masked_fill_(gone, PADDING)
        slots = self.slots.all.masked_fill(gone, -1)
        self.keys.replace(keys)
        self.slots.replace(slots)
        left = (slots >= 0).any(0).nonzero()
        length = int(left[-1]) + 1 if len(left) else 0
        for rows in self._each():
            rows.cut(length)

    def change(self, how: Callable[[Tensor], Tensor]) -> None:
        """Reorders, repeats or selects rows of the batch."""
        for rows in self._each():
            rows.change(how)

    def _each(self) -> list[Rows]:
        blocks = [rows for block in self.blocks.values() for rows in block]
        return [self.keys, self.slots, self.rows, self.turns, *blocks]


class Memory:
    """Every token's layout, and for each learner the source rows of its modality.

    A source row is a token's layer-0 embedding. With the numbers that blocks keep, a token costs
    D + d + 2 r L numbers for the learners (d: the width of their heads), where a cache of whole
    keys and values would cost 2 D L. Small models also keep the keys (D L numbers), as working
    them out of the r numbers at every step is the larger part of a small model's step.
    """

    def __init__(
        self, learners: tuple[str, ...], keeps_keys: bool = False, capacity: int | None = None
    ) -> None:
        self.learners, self.keeps_keys, self.capacity = learners, keeps_keys, capacity
        self.forget()

    def forget(self) -> None:
        """Starts anew."""
        self.table = self._fixed(PADDING)
        # Rows of images only come with a picture, never while a compiled step runs.
        self.sources = {
            name: SourceMemory(self._fixed if KINDS[name] == TEXT else growing, self.keeps_keys)
            for name in self.learners
        }
        self.pending: Pending | None = None
        self.has_images = self.is_packed = False

    def _fixed(self, fill: int, dim: int = 1) -> Rows:
        return Rows(dim) if self.capacity is None else FixedRows(self.capacity, fill, dim)

    @property
    def layout(self) -> Layout | None:
        """Layout of all tokens so far, or None."""
        return None if self.table.buffer is None else Layout(self.table.all)

    @property
    def tokens(self) -> int | Tensor:
        """How many tokens there are."""
        return self.table.count if isinstance(self.table, FixedRows) else self.table.length

    def steps(self, layout: Layout) -> bool:
        """Whether a pass is one step of a fixed memory, which may be compiled or recorded.

        Nothing may depend on the values of its tensors there: it brings one token of text a row.
        """
        is_fixed, is_first = isinstance(self.table, FixedRows), self.table.buffer is None
        return is_fixed and not is_first and self.pending is None and len(layout) == 1

    def take(
        self,
        layout: Layout,
        sources: Tensor,
        later: tuple[Layout, Tensor] | None,
        rotary: Rotary,
        active: bool,
        has_pictures: bool,
    ) -> Layout:
        """Takes in new tokens; gives back the layout of all tokens so far.

        Args:
            layout: of the new tokens, `[B, T]`.
            sources: their source rows, `[B, T, D]`.
            later: layout and source rows `[B, P, D]` of image features beyond the last token.
            rotary: the learners' rotary positions.
            active: whether the learners act in this pass.
            has_pictures: whether an image begins among the tokens.
        """
        before = self.tokens
        if isinstance(before, Tensor):
            # The number itself goes on counting.
            before = before.clone()
        self.table.append(layout.table)
        for name, memory in self.sources.items():
            memory.new = None
            memory.catches_up = memory.is_behind and active
            memory.is_behind = not active
            kind = KINDS[name]
            wanted = layout.kind == kind
            if kind == IMAGE and self.pending is not None:
                wanted = self._without_pending(wanted, self.pending, before)
            if kind == IMAGE and not has_pictures:
                found = None
            elif len(layout) == 1 and self.pending is None:
                # While decoding nobody is asked whether a row has ended: padding takes a slot.
                found = torch.zeros_like(layout.kind)
            else:
                found = columns_of(wanted)
            new: tuple[Layout, Tensor, Tensor] | None = None
            if found is not None:
                keys = chosen(layout, wanted, found)
                slots = torch.where(keys.kind == PADDING, -1, found + before)
                new = keys, slots, gathered(sources, found)
            if kind == IMAGE and later is not None:
                more, extra = later
                unknown = torch.where(more.kind == PADDING, -1, LATER)
                new = joined(new, (more, unknown, extra))
            if new is not None:
                keys, slots, rows = new
                memory.append(keys.table, slots, rows, rotary.at(keys.position, rows.dtype))
        return Layout(self.table.all)

    def _without_pending(self, is_image: Tensor, pending: Pending, before: int | Tensor) -> Tensor:
        """Image tokens `[B, T]` of images that begin here, not in an earlier chunk.

        The features of the others are there already, and now get their slots.
        """
        old = is_image & (is_image.long().cumsum(1) <= pending.count[:, None])
        columns = columns_of(old)
        if columns is not None:
            slots = self.sources["image"].slots.all
            nth = (slots == LATER).long().cumsum(1) - 1
            known = (slots == LATER) & (nth < old.sum(1, keepdim=True))
            slot = before + columns.gather(1, nth.clamp(0, columns.shape[1] - 1))
            self.sources["image"].slots.replace(torch.where(known, slot, slots))
        return is_image & ~old

    def cut(self, tokens: int) -> None:
        """Keeps the first `tokens` tokens."""
        if tokens >= self.tokens:
            return
        if tokens == 0:
            self.forget()
            return
        # What waits for the next chunk follows a token that is gone.
        self.pending = None
        self.table.cut(tokens)
        for memory in self.sources.values():
            memory.cut(tokens)
        if self.has_images:
            self.has_images = bool((Layout(self.table.all).kind == IMAGE).any())

    def change(self, how: Callable[[Tensor], Tensor]) -> None:
        """Reorders, repeats or selects rows of the batch."""
        self.table.change(how)
        for memory in self.sources.values():
            memory.change(how)
        if self.pending is not None:
            self.pending = Pending(how(self.pending.rows), how(self.pending.count))


def are_fixed(blocks: list[Rows]) -> TypeGuard[list[FixedRows]]:
    """Whether the rows of a block have all their room: all of them or none."""
    return isinstance(blocks[0], FixedRows)


def growing(fill: int, dim: int = 1) -> Rows:
    """Rows that need no fill, as their room is never seen."""
    return Rows(dim)


def columns_of(wanted: Tensor) -> Tensor | None:
    """The True columns of each row first, in order, as many as the fullest row has; None for none.

    `[B, T]` bool -> `[B, n]`; rows with fewer go on with columns that are not wanted.
    """
    count = int(wanted.sum(1).max()) if wanted.numel() else 0
    if not count:
        return None
    return torch.argsort((~wanted).long(), dim=1, stable=True)[:, :count]


def gathered(rows: Tensor, columns: Tensor) -> Tensor:
    """`[B, T, D]` at `columns [B, n]` -> `[B, n, D]`."""
    return rows.gather(1, columns[..., None].expand(-1, -1, rows.shape[-1]))


def joined(
    old: tuple[Layout, Tensor, Tensor] | None, new: tuple[Layout, Tensor, Tensor]
) -> tuple[Layout, Tensor, Tensor]:
    """Layout, slots and rows of both, `[B, n + P]`, with the padding of each row last."""
    if old is None:
        return new
    keys, rows = new[0].after(old[0]), torch.cat([old[2], new[2].to(old[2])], dim=1)
    slots = torch.cat([old[1], new[1]], dim=1)
    order = torch.argsort((keys.kind == PADDING).long(), dim=1, stable=True)
    return keys.gather(order), slots.gather(1, order), gathered(rows, order)


def chosen(layout: Layout, wanted: Tensor, columns: Tensor) -> Layout:
    """The layout at `columns [B, n]`, `PADDING` where a column is not `wanted [B, T]`."""
    keys = layout.gather(columns)
    keys.table[..., 3].masked_fill_(~wanted.gather(1, columns), PADDING)
    return keys
