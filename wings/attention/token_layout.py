"""`TokenLayout`: position, sequence, kind and visibility of every token of a batch."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from wings.errors import WingsError

# Items of a model's senses have the kinds 1, 2, ... in the order of its configuration.
PADDING, TEXT, IMAGE = -1, 0, 1
FIELDS = ("position", "visible_at", "segment", "kind")


class TokenLayout:
    """A few whole numbers a token, `[B, S]` int64 each; nothing changes after it is made.

    Token i sees key j iff `visible_at[j] <= position[i]`, both have one segment and neither is
    padding. So an item (an image, a stretch of sound) is seen whole from its first token on, and
    nothing sees the future.

    Attributes:
        position: within its sequence, from 0.
        visible_at: the first position that sees the token as a learner's key: its own for text,
            that of its item's first token for an item.
        segment: the number of its sequence in a packed row.
        kind: `TEXT`, `PADDING` or the number of a sense, from 1.
        begun: for each sense the items of the token's sequence that have begun up to and including
            the token.
        newest: the kind of the item that began last, `TEXT` where none has.
        table: `FIELDS`, then `begun`, then `newest` where there are several senses: `[B, S, 5]` for
            one sense. A cache stores this.
        length: S.
    """

    def __init__(self, table: Tensor) -> None:
        self.table, self.length = table, table.shape[1]
        columns = table.unbind(-1)
        self.position, self.visible_at, self.segment, self.kind = columns[: len(FIELDS)]
        has_newest = len(columns) > len(FIELDS) + 1
        self.begun = columns[len(FIELDS) : len(columns) - has_newest]
        self._newest = columns[-1] if has_newest else None

    @classmethod
    def of(
        cls, *, begun: Sequence[Tensor], newest: Tensor | None = None, **fields: Tensor
    ) -> "TokenLayout":
        """The layout with these `FIELDS`, `[B, S]` each; `newest` of several senses alone."""
        columns = [*(fields[name] for name in FIELDS), *begun]
        return cls(torch.stack(columns if newest is None else [*columns, newest], dim=-1))

    def replace(self, **fields: Tensor) -> "TokenLayout":
        """A copy with some of the `FIELDS` replaced."""
        given = {name: getattr(self, name) for name in FIELDS} | fields
        return self.of(begun=self.begun, newest=self._newest, **given)

    @property
    def newest(self) -> Tensor:
        """`[B, S]`: the kind of the item that began last, `TEXT` where none has."""
        if self._newest is not None:
            return self._newest
        return torch.where(self.begun[0] > 0, IMAGE, TEXT)

    @cached_property
    def most_begun(self) -> tuple[int, ...]:
        """For each sense the most items that have begun in a row; the host reads them once."""
        return tuple(torch.stack([one.amax() for one in self.begun]).tolist())

    def padded_where(self, hidden: Tensor) -> "TokenLayout":
        """A copy that has `PADDING` where `hidden [B, S]` is True."""
        return self.replace(kind=self.kind.masked_fill(hidden, PADDING))

    def sees_sense(self, kind: int) -> Tensor:
        """`[B, S]` bool: tokens with at least one item of the sense to attend to; its guard."""
        return (self.begun[kind - 1] > 0) & (self.kind != PADDING)

    @property
    def is_packed(self) -> bool:
        """True if a row holds tokens of several sequences."""
        real = self.kind != PADDING
        last = self.segment.masked_fill(~real, 0).amax(1)
        first = self.segment.masked_fill(~real, torch.iinfo(torch.long).max).amin(1)
        return bool((last > first).any())

    def to(self, device: torch.device) -> "TokenLayout":
        return TokenLayout(self.table.to(device))

    def after(self, past: "TokenLayout | None") -> "TokenLayout":
        """The tokens of `past`, then these."""
        if past is None:
            return self
        return TokenLayout(torch.cat([past.table.to(self.table.device), self.table], dim=1))

    def gather(self, order: Tensor) -> "TokenLayout":
        """The columns `order [B, n]` of each row."""
        index = order[..., None].expand(-1, -1, self.table.shape[-1])
        return TokenLayout(self.table.gather(1, index))

    def blocks(self, length: int) -> list["TokenLayout"]:
        """Consecutive pieces of at most `length` tokens."""
        return [TokenLayout(part) for part in self.table.split(length, 1)]

    def sees(self, keys: "TokenLayout") -> Tensor:
        """`[B, T, S]` bool: which of `keys` each token sees."""
        visible = keys.visible_at[:, None, :] <= self.position[:, :, None]
        visible &= keys.segment[:, None, :] == self.segment[:, :, None]
        visible &= (keys.kind != PADDING)[:, None, :]
        return visible & (self.kind != PADDING)[:, :, None]

    @classmethod
    def read(
        cls,
        kinds: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        seq_lengths: Sequence[int],
        past: "TokenLayout | None" = None,
        past_length: int | Tensor = 0,
    ) -> "TokenLayout":
        """The layout of new tokens.

        Args:
            kinds: `[B, T]` int64, `TEXT` or the sense whose feature a token stands for.
            attention_mask: `[B, P + T]` of 0 and 1 with P tokens before, or None. With a static
                cache it may be as long as the cache.
            position_ids: `[B, T]`, restarting at 0 where a packed sequence begins, or None to count
                the tokens that are not padding.
            seq_lengths: tokens per item of each sense.
            past: the layout of the tokens before, for chunked prefill and decoding. The unused part
                of a static cache is padding in it.
            past_length: P, a tensor with a static cache.

        Raises:
            WingsError: a mask or positions of another shape.
        """
        valid = _valid(kinds, attention_mask, past_length)
        batch, length = kinds.shape
        if position_ids is not None and position_ids.shape[-1] != length:
            raise WingsError(
                f"position_ids has shape {list(position_ids.shape)}, but there are {length} tokens."
            )
        if past is None:
            zero = kinds.new_zeros((batch, 1), dtype=torch.long)
            last = cls.of(
                position=zero - 1, visible_at=zero, segment=zero, kind=zero + TEXT,
                begun=[zero] * len(seq_lengths), newest=zero if len(seq_lengths) > 1 else None,
            )  # fmt: skip
        else:
            # The newest token of each row that is not padding: with padding on the right of an
            # earlier turn it is not the last one.
            at = (past.kind != PADDING).long().cumsum(1).argmax(1)
            last = past.gather(at[:, None])
        if position_ids is None:
            position = last.position + valid.long().cumsum(1)
        else:
            position = position_ids.to(torch.long).expand(batch, -1)
        # The contract of packing: a position of 0 begins a sequence.
        starts = (position == 0) & valid
        segment = last.segment + starts.long().cumsum(1)
        goes_on = segment == last.segment

        kind = torch.where(valid, kinds, PADDING)
        begun: list[Tensor] = []
        begins = torch.zeros_like(valid)
        for number, seq_length in enumerate(seq_lengths, 1):
            own = kind == number
            before = 0 if past is None else (past.kind == number).sum(1)[:, None]
            # Items have equal lengths, so the count of their tokens alone tells where one begins.
            ordinal = before + own.long().cumsum(1)
            first = own & ((ordinal - 1) % seq_length == 0)
            count = first.long().cumsum(1)
            # Items of earlier sequences in a packed row do not count for this one.
            start_count = torch.where(starts, count - first.long(), 0).cummax(1).values
            carried = torch.where(goes_on, last.begun[number - 1], 0)
            begun.append(carried + count - start_count)
            begins = begins | first
        # An item that began in an earlier chunk goes on: its tokens keep that first position.
        open_item = torch.where(last.kind > TEXT, last.visible_at, -1)
        index = torch.where(begins, torch.arange(length, device=position.device), -1)
        index = index.cummax(1).values
        latest = index.clamp(min=0)
        opened = torch.where(begins, position, -1).gather(1, latest)
        here = index >= 0
        visible_at = torch.where(kind > TEXT, torch.where(here, opened, open_item), position)
        newest = None
        if len(seq_lengths) > 1:
            is_same = here & (segment.gather(1, latest) == segment)
            newest = torch.where(goes_on & ~here, last.newest, TEXT)
            newest = torch.where(is_same, kind.gather(1, latest), newest)
        return cls.of(
            position=position, visible_at=visible_at, segment=segment, kind=kind, begun=begun,
            newest=newest,
        )  # fmt: skip


def _valid(tokens: Tensor, attention_mask: Tensor | None, past_length: int | Tensor) -> Tensor:
    """`[B, T]` bool, new tokens that are not padding."""
    batch, length = tokens.shape
    if attention_mask is None:
        return torch.ones_like(tokens, dtype=torch.bool)
    if isinstance(past_length, Tensor):
        columns = past_length + torch.arange(length, device=tokens.device)
        return attention_mask.index_select(1, columns).bool()
    if attention_mask.shape != (batch, past_length + length):
        raise WingsError(
            f"attention_mask has shape {list(attention_mask.shape)}, but {past_length} cached "
            f"and {length} new tokens in {batch} rows need [{batch}, {past_length + length}]."
        )
    return attention_mask[:, past_length:].bool()
