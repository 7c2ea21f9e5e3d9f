"""`GrowingLayer`: the main attention's keys and values of one block, grown in place."""

from typing import Any

from torch import Tensor

from wings.upstream.cache_layers import DynamicLayer

from .buffers import Rows

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
        keys, values, rows = self.keys, self.values, self._rows
        is_empty = not self.is_initialized or not self.get_seq_length()
        if is_empty or keys is None or values is None or keys.dtype != key_states.dtype:
            return super().update(key_states, value_states, *args, **kwargs)
        replaced = self._shown[0] is not keys or self._shown[1] is not values
        # A shallow copy shares the room: whoever comes second takes one of its own.
        if rows is None or replaced or rows[0].length != keys.shape[LENGTH]:
            rows = self._rows = Rows.holding(keys, LENGTH), Rows.holding(values, LENGTH)
        for held, new in zip(rows, (key_states, value_states), strict=True):
            held.append(new)
        self.keys, self.values = self._shown = shown = rows[0].all, rows[1].all
        return shown
