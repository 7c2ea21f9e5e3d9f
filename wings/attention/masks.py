"""`Masks`: what is made of a decoder's masks in one pass, shared by the blocks given them."""

from collections.abc import Callable

import torch
from torch import Tensor

from .token_layout import Layout


class Masks:
    """Each is made once, however many blocks a backward keeps it for."""

    def __init__(self) -> None:
        self._cut: dict[tuple[int, int], tuple[Tensor | None, Tensor]] = {}
        self._seen: dict[tuple[int, int], tuple[Tensor | None, Tensor]] = {}

    def cut(self, mask: Tensor | None, queries: Layout, keys: Layout) -> Tensor:
        """The mask `[B, 1, T, S]`, or a causal one, ending at the borders of packed sequences.

        Bool or additive as it came; None gives bool.
        """

        def make() -> Tensor:
            same = (queries.segment[:, :, None] == keys.segment[:, None, :])[:, None]
            if mask is None:
                return same.tril(len(keys) - len(queries))
            if mask.dtype == torch.bool:
                return mask & same
            return mask.masked_fill(~same, torch.finfo(mask.dtype).min)

        return made(self._cut, mask, len(keys), make)

    def seen(self, mask: Tensor | None, keys: int) -> Tensor | None:
        """True where a query sees one of the first `keys` keys; None stays."""
        if mask is None:
            return None
        is_bool = mask.dtype == torch.bool
        seen = mask if is_bool else made(self._seen, mask, 0, lambda: mask == 0)
        return seen[..., :keys]


def made(
    store: dict[tuple[int, int], tuple[Tensor | None, Tensor]],
    mask: Tensor | None,
    count: int,
    how: Callable[[], Tensor],
) -> Tensor:
    """What `how` makes of a mask, once."""
    key = id(mask), count
    if key not in store:
        # With the mask itself, so that no other takes its place in memory.
        store[key] = mask, how()
    return store[key][1]
