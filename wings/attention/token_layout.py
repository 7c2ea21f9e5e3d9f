"""`TokenLayout`: position, sequence, kind and visibility of every token of a batch."""

import torch
from torch import Tensor

from wings.errors import WingsError

IMAGE, TEXT, PADDING = 0, 1, -1
KINDS = {"image": IMAGE, "text": TEXT}
FIELDS = ("position", "visible_at", "segment", "kind", "images")


class TokenLayout:
    """Five whole numbers a token, `[B, S]` int64 each; nothing changes after it is made.

    Token i sees key j iff `visible_at[j] <= position[i]`, both have one segment and neither is
    padding. So an image is seen whole from its first token on, and nothing sees the future.

    Attributes:
        position: within its sequence, from 0.
        visible_at: the first position that sees the token as a learner's key: its own for text,
            that of its image's first token for an image.
        segment: the number of its sequence in a packed row.
        kind: `IMAGE`, `TEXT` or `PADDING`.
        images: images of its sequence that have begun up to and including the token.
        table: the five in the order of `FIELDS`, `[B, S, 5]`; a cache stores this.
        length: S.
    """

    def __init__(self, table: Tensor) -> None:
        self.table, self.length = table, table.shape[1]
        self.position, self.visible_at, self.segment, self.kind, self.images = table.unbind(-1)

    @classmethod
    def of(cls, **fields: Tensor) -> "TokenLayout":
        """The layout with these `FIELDS`, `[B, S]` each."""
        return cls(torch.stack([fields[name] for name in FIELDS], dim=-1))

    def replace(self, **fields: Tensor) -> "TokenLayout":
        """A copy with some of the `FIELDS` replaced."""
        return self.of(**({name: getattr(self, name) for name in FIELDS} | fields))

    def padded_where(self, hidden: Tensor) -> "TokenLayout":
        """A copy that has `PADDING` where `hidden [B, S]` is True."""
        return self.replace(kind=self.kind.masked_fill(hidden, PADDING))

    @property
    def sees_image(self) -> Tensor:
        """`[B, S]` bool: tokens with at least one image to look at; the text guard's mask."""
        return (self.images > 0) & (self.kind != PADDING)

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
        is_image: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        image_seq_length: int,
        past: "TokenLayout | None" = None,
        past_length: int | Tensor = 0,
    ) -> "TokenLayout":
        """The layout of new tokens.

        Args:
            is_image: `[B, T]` bool, the tokens that stand for image features.
            attention_mask: `[B, P + T]` of 0 and 1 with P tokens before, or None. With a static
                cache it may be as long as the cache.
            position_ids: `[B, T]`, restarting at 0 where a packed sequence begins, or None to count
                the tokens that are not padding.
            image_seq_length: tokens per image.
            past: the layout of the tokens before, for chunked prefill and decoding. The unused part
                of a static cache is padding in it.
            past_length: P, a tensor with a static cache.

        Raises:
            WingsError: a mask or positions of another shape.
        """
        batch, length = is_image.shape
        static = isinstance(past_length, Tensor)
        if (
            attention_mask is not None
            and not static
            and (attention_mask.shape != (batch, past_length + length))
        ):
            raise WingsError(
                f"attention_mask has shape {list(attention_mask.shape)}, but {past_length} cached "
                f"and {length} new tokens in {batch} rows need [{batch}, {past_length + length}]."
            )
        if position_ids is not None and position_ids.shape[-1] != length:
            raise WingsError(
                f"position_ids has shape {list(position_ids.shape)}, but there are {length} tokens."
            )
        if attention_mask is None:
            valid = torch.ones_like(is_image)
        elif static:
            columns = past_length + torch.arange(length, device=is_image.device)
            valid = attention_mask.index_select(1, columns).bool()
        else:
            valid = attention_mask[:, past_length:].bool()
        if past is None:
            zero = is_image.new_zeros((batch, 1), dtype=torch.long)
            last = cls.of(
                position=zero - 1, visible_at=zero, segment=zero, kind=zero + TEXT, images=zero
            )
            image_tokens = zero[:, 0]
        else:
            # The newest token of each row that is not padding: with padding on the right of an
            # earlier turn it is not the last one.
            newest = (past.kind != PADDING).long().cumsum(1).argmax(1)
            last = past.gather(newest[:, None])
            image_tokens = (past.kind == IMAGE).sum(1)
        if position_ids is None:
            position = last.position + valid.long().cumsum(1)
        else:
            position = position_ids.to(torch.long).expand(batch, -1)
        # The contract of packing: a position of 0 begins a sequence.
        starts = (position == 0) & valid
        segment = last.segment + starts.long().cumsum(1)

        is_image = is_image & valid
        # Images have equal lengths, so the count of image tokens alone tells where one begins.
        ordinal = image_tokens[:, None] + is_image.long().cumsum(1)
        begins = is_image & ((ordinal - 1) % image_seq_length == 0)
        begun = begins.long().cumsum(1)
        # Images of earlier sequences in a packed row do not count for this one.
        start_count = torch.where(starts, begun - begins.long(), 0).cummax(1).values
        carried = torch.where(segment == last.segment, last.images, 0)
        images = carried + begun - start_count
        # An image that began in an earlier chunk goes on: its tokens keep that first position.
        open_image = torch.where(last.kind == IMAGE, last.visible_at, -1)
        index = torch.where(begins, torch.arange(length, device=position.device), -1)
        index = index.cummax(1).values
        opened = torch.where(begins, position, -1).gather(1, index.clamp(min=0))
        visible_at = torch.where(is_image, torch.where(index < 0, open_image, opened), position)
        kind = torch.where(is_image, IMAGE, torch.where(valid, TEXT, PADDING))
        return cls.of(
            position=position, visible_at=visible_at, segment=segment, kind=kind, images=images
        )
