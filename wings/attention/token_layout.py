"""`Layout`: where every token of a batch stands, and what it can see."""

import torch
from torch import Tensor

from wings.errors import WingsError

IMAGE, TEXT, PADDING = 0, 1, -1
KINDS = {"image": IMAGE, "text": TEXT}


class Layout:
    """Five whole numbers per token, as one table `[B, S, 5]` of int64.

    `position`: within its sequence, from 0. `visible_from`: the first position that sees the token
    as a learner's key: its own for text, that of its image's first token for an image.
    `segment`: the number of its sequence in a packed row. `kind`: `IMAGE`, `TEXT` or `PADDING`.
    `images`: how many images of its sequence have begun up to and including the token.

    Token i sees key j iff `visible_from_j <= position_i`, both have one segment and neither is
    padding: an image is seen whole from its first token on, and nothing sees the future.
    """

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self._index: Tensor | None = None

    @property
    def position(self) -> Tensor:
        return self.table[..., 0]

    @property
    def visible_from(self) -> Tensor:
        return self.table[..., 1]

    @property
    def segment(self) -> Tensor:
        return self.table[..., 2]

    @property
    def kind(self) -> Tensor:
        return self.table[..., 3]

    @property
    def images(self) -> Tensor:
        return self.table[..., 4]

    @property
    def index(self) -> Tensor:
        """`[B, S]`: positions that a table can be asked for; of padding, some position."""
        if self._index is None:
            self._index = self.position.clamp(min=0)
        return self._index

    @property
    def sees_image(self) -> Tensor:
        """`[B, S]` bool: tokens with at least one image to look at; what the text guard lets."""
        return (self.images > 0) & (self.kind != PADDING)

    @property
    def is_packed(self) -> bool:
        """Whether a row holds tokens of several sequences."""
        real = self.kind != PADDING
        last = self.segment.masked_fill(~real, 0).amax(1)
        first = self.segment.masked_fill(~real, torch.iinfo(torch.long).max).amin(1)
        return bool((last > first).any())

    def __len__(self) -> int:
        return self.table.shape[1]

    def to(self, device: torch.device) -> "Layout":
        return Layout(self.table.to(device))

    def after(self, past: "Layout | None") -> "Layout":
        """The tokens of `past`, then these."""
        if past is None:
            return self
        return Layout(torch.cat([past.table.to(self.table.device), self.table], dim=1))

    def gather(self, order: Tensor) -> "Layout":
        """The columns `order [B, n]` of each row."""
        return Layout(self.table.gather(1, order[..., None].expand(-1, -1, self.table.shape[-1])))

    def sees(self, keys: "Layout") -> Tensor:
        """`[B, T, S]` bool: which of `keys` each token sees."""
        visible = keys.visible_from[:, None, :] <= self.position[:, :, None]
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
        past: "Layout | None" = None,
        before: int | Tensor = 0,
    ) -> "Layout":
        """Works out the layout of new tokens.

        Args:
            is_image: `[B, T]` bool, the tokens that stand for image features.
            attention_mask: `[B, P + T]` of 0 and 1 with P tokens before, or None; where a static
                cache has room for more, so may the mask.
            position_ids: `[B, T]`, restarting at 0 where a packed sequence begins, or None to count
                the tokens that are not padding.
            image_seq_length: tokens per image.
            past: the layout of the tokens before, for chunked prefill and decoding; a static
                cache's room for later ones is padding.
            before: P, a tensor with a static cache.

        Raises:
            WingsError: a mask or positions of another shape.
        """
        batch, length = is_image.shape
        fixed = isinstance(before, Tensor)
        if (
            attention_mask is not None
            and not fixed
            and (attention_mask.shape != (batch, before + length))
        ):
            raise WingsError(
                f"attention_mask has shape {list(attention_mask.shape)}, but {before} cached and "
                f"{length} new tokens in {batch} rows need [{batch}, {before + length}]."
            )
        if position_ids is not None and position_ids.shape[-1] != length:
            raise WingsError(
                f"position_ids has shape {list(position_ids.shape)}, but there are {length} tokens."
            )
        if attention_mask is None:
            valid = torch.ones_like(is_image)
        elif fixed:
            columns = before + torch.arange(length, device=is_image.device)
            valid = attention_mask.index_select(1, columns).bool()
        else:
            valid = attention_mask[:, before:].bool()
        if past is None:
            last = is_image.new_zeros((batch, 5), dtype=torch.long)
            last[:, 0], last[:, 3] = -1, TEXT
            image_tokens = last[:, 1]
        else:
            # The newest token of each row that is not padding: with padding on the right of an
            # earlier turn it is not the last one.
            newest = (past.kind != PADDING).long().cumsum(1).argmax(1)
            last = past.table[torch.arange(batch, device=newest.device), newest]
            image_tokens = (past.kind == IMAGE).sum(1)
        count = valid.long().cumsum(1)
        if position_ids is None:
            position = last[:, :1] + count
        else:
            position = position_ids.to(torch.long).expand(batch, -1)
        starts = (position == 0) & valid
        segment = last[:, 2:3] + starts.long().cumsum(1)

        is_image = is_image & valid
        ordinal = image_tokens[:, None] + is_image.long().cumsum(1)
        begins = is_image & ((ordinal - 1) % image_seq_length == 0)
        begun = begins.long().cumsum(1)
        # Images begun before the token's sequence started do not count for it.
        start_count = torch.where(starts, begun - begins.long(), 0).cummax(1).values
        carried = torch.where(segment == last[:, 2:3], last[:, 4:5], 0)
        images = carried + begun - start_count
        first = torch.where(begins, position, -1)
        # An image that began in an earlier chunk goes on: its tokens keep the old beginning.
        open_image = torch.where(last[:, 3] == IMAGE, last[:, 1], -1)[:, None]
        index = torch.where(begins, torch.arange(length, device=position.device), -1)
        index = index.cummax(1).values
        opened = first.gather(1, index.clamp(min=0))
        visible_from = torch.where(is_image, torch.where(index < 0, open_image, opened), position)
        kind = torch.where(is_image, IMAGE, torch.where(valid, TEXT, PADDING))
        return cls(torch.stack([position, visible_from, segment, kind, images], dim=-1))
