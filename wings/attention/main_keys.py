"""`MainKeys`: the keys of the decoder's own attention, as the routers and its masks need them."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from wings.kernels.key_ranges import KeyRanges

from .token_layout import PADDING, TokenLayout


def windows_of(text_config: PreTrainedConfig) -> tuple[int | None, ...]:
    """The windows of a decoder's layers; None for attention without one."""
    kinds = getattr(text_config, "layer_types", None) or ["sliding"]
    window = getattr(text_config, "sliding_window", None)
    return tuple(dict.fromkeys(window if "sliding" in kind else None for kind in kinds))


class MainKeys:
    """Layout, masks and ranges of the keys of the main attention in one pass.

    Blocks can have different numbers of keys: a sliding window's cache drops the oldest. Which
    masks they get is known only when the decoder calls them. So values are derived on first use and
    shared by the blocks after: a backward then keeps one mask and not one a block. Most blocks read
    ranges and columns of all keys, which are made before the first block. So a compiled block
    depends on no length and does not wait for a GPU.

    Args:
        queries: the T new tokens.
        tokens: all tokens so far, the new ones last; with a static cache, all of its room.
        held: how many tokens there are with a static cache, else None.
        is_plain: whether the decoder masks the future, padding, other sequences and what is before
            a window, and nothing else.

    Attributes:
        columns: of all keys, `[B, S, C]`, by `reads` of the routers that read them.
    """

    def __init__(
        self, queries: TokenLayout, tokens: TokenLayout, held: Tensor | None, is_plain: bool
    ) -> None:
        self.queries, self.tokens, self.held, self.is_plain = queries, tokens, held, is_plain
        self.columns: dict[Any, Tensor] = {}
        self._ranges_of_all: dict[int | None, KeyRanges | None] = {}
        self._derived: dict[Any, Any] = {}
        self._copies: dict[torch.device, MainKeys] = {}

    def _once(self, key: Any, derive: Callable[[], Any]) -> Any:
        if key not in self._derived:
            self._derived[key] = derive()
        return self._derived[key]

    def layout(self, count: int) -> TokenLayout:
        """The last `count` keys, `[B, S]`."""
        if self.held is None and count == self.tokens.length:
            return self.tokens
        return self._once(("layout", count), lambda: self._last(count))

    def _last(self, count: int) -> TokenLayout:
        table = self.tokens.table
        if self.held is None:
            return TokenLayout(table[:, -count:])
        if count == self.tokens.length:
            return self.tokens
        # A static cache fills its room from the front, and drops the first only when it is full.
        start = (self.held - count).clamp(min=0)
        return TokenLayout(table.index_select(1, start + torch.arange(count, device=table.device)))

    def ranges(self, count: int, window: int | None) -> KeyRanges | None:
        """The ranges that the new tokens see of the last `count` keys.

        None where the decoder's masks are not plain, where a range would have padding in it, and in
        the middle of a static cache.
        """
        if not self.is_plain or (self.held is not None and count != self.queries.length):
            return None
        if count == self.tokens.length and window in self._ranges_of_all:
            return self._ranges_of_all[window]
        return self._once(("ranges", count, window), lambda: self._ranges(count, window))

    def make_ranges(self, windows: Iterable[int | None]) -> None:
        """Makes the ranges of all keys, for blocks with these windows."""
        for window in windows:
            self._ranges_of_all[window] = self.ranges(self.tokens.length, window)

    def _ranges(self, count: int, window: int | None) -> KeyRanges | None:
        keys, length = self.layout(count), self.queries.length
        slot = torch.arange(count - length, count, device=keys.table.device)
        end = (slot + 1).expand(len(keys.table), -1)
        # Segments never decrease along a row, so a search finds the first key of a query's own.
        first = torch.searchsorted(keys.segment.contiguous(), self.queries.segment.contiguous())
        if window is not None:
            first = torch.maximum(first, end - window)
        blind = self.queries.kind == PADDING
        first, end = first.masked_fill(blind, 0), end.masked_fill(blind, 0)
        padding = torch.nn.functional.pad((keys.kind == PADDING).long().cumsum(1), (1, 0))
        # A range has no holes. Padding between the tokens of earlier turns makes one, and a kernel
        # would attend to it.
        has_padding = padding.gather(1, end) > padding.gather(1, first.clamp(max=count))
        return None if bool(has_padding.any()) else KeyRanges(first, end, count)

    def within_sequences(self, mask: Tensor | None, count: int) -> Tensor:
        """The mask `[B, 1, T, S]`, or a causal one, that ends at the borders of packed sequences.

        Bool or additive as it came; None gives bool.
        """
        # The mask is part of the value, so that its id is not given to another one.
        return self._once(("cut", id(mask), count), lambda: (mask, self._cut(mask, count)))[1]

    def _cut(self, mask: Tensor | None, count: int) -> Tensor:
        keys = self.layout(count)
        same = (self.queries.segment[:, :, None] == keys.segment[:, None, :])[:, None]
        if mask is None:
            return same.tril(keys.length - self.queries.length)
        if mask.dtype == torch.bool:
            return mask & same
        return mask.masked_fill(~same, torch.finfo(mask.dtype).min)

    def visible(self, mask: Tensor | None, count: int) -> Tensor | None:
        """True where a query sees one of the first `count` keys; None stays."""
        if mask is None:
            return None
        if mask.dtype != torch.bool:
            additive = mask
            mask = self._once(("seen", id(mask)), lambda: (additive, additive == 0))[1]
        assert mask is not None
        return mask[..., :count]

    def to(self, device: torch.device) -> "MainKeys":
        """A copy on `device`, the same for all blocks there."""
        if device not in self._copies:
            held = None if self.held is None else self.held.to(device)
            copy = MainKeys(self.queries.to(device), self.tokens.to(device), held, self.is_plain)
            copy.columns = {reads: one.to(device) for reads, one in self.columns.items()}
            copy._ranges_of_all = {
                window: None if one is None else one.to(device)
                for window, one in self._ranges_of_all.items()
            }
            self._copies[device] = copy
        return self._copies[device]
