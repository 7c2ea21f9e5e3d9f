"""`GrowingLayer`: the main attention's keys and values of one block, grown in place."""

from typing import Any

from torch import Tensor

from .rows import Rows
from .upstream.cache_layers import DynamicLayer

# Keys and values are `[B, heads, S, width]`.
LENGTH = 2


class GrowingLayer(DynamicLayer):
    """A `DynamicLayer` with room for the next tokens, where the original copies all at every one.

    `keys` and `values` are views of that room. Whoever puts other tensors in their place (cropping
    and reordering do) has them copied at the next token, so nothing that was ever handed out is
    written over.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rows: tuple[Rows, Rows] | None = None
        self._shown: tuple[Tensor | None, Tensor | None] = (None, None)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Takes in new keys and values, `[B, heads, T, width]`; gives back all of them."""
        is_empty = not self.is_initialized or not self.get_seq_length()
        if is_empty or self.keys.dtype != key_states.dtype:
            return super().update(key_states, value_states, *args, **kwargs)
        replaced = self._shown[0] is not self.keys or self._shown[1] is not self.values
        # A shallow copy shares the room: whoever comes second takes one of its own.
        if replaced or self._rows[0].length != self.keys.shape[LENGTH]:
            self._rows = Rows.holding(self.keys, LENGTH), Rows.holding(self.values, LENGTH)
        for rows, new in zip(self._rows, (key_states, value_states), strict=True):
            rows.append(new)
        self.keys, self.values = self._shown = self._rows[0].all, self._rows[1].all
        return self.keys, self.values
