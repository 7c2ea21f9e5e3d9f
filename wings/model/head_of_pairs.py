"""`HeadOfPairs`: an output head that computes logits of chosen tokens only."""

from typing import Any

from torch import Tensor, nn


class HeadOfPairs:
    """Takes the place of an output head in the code of a family's causal LM.

    With a large vocabulary the head costs as much as many blocks, and few tokens of a batch have a
    label. Columns that any row needs are most of them; pairs of row and column are those that are.

    Args:
        head: the output head, `[..., D]` -> `[..., V]`.
        pairs: row and column of each of N tokens, `[N, 2]`.
    """

    def __init__(self, head: nn.Module, pairs: Tensor) -> None:
        self.head, self.pairs = head, pairs

    def __call__(self, hidden: Tensor) -> Tensor:
        """`[B, T, D]` -> logits `[1, N, V]`."""
        rows, columns = self.pairs.unbind(1)
        place = rows * hidden.shape[1] + columns
        return self.head(hidden.flatten(0, 1).index_select(0, place))[None]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.head, name)
