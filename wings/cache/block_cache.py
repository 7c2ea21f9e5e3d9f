"""The cache of one block, and the buffers that take in new tokens in place."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wings.upstream.cache_layers import DynamicLayer

# The dimension of S in the main attention's keys and values, `[B, heads, S, width]`.
LENGTH = 2
# The dimension of S in what a block keeps, `[B, 2, S, r]` and keys `[B, H, d, S]`: one query then
# reads consecutive memory.
COMPRESSED, KEYS = 2, 3


class GrowableBuffer:
    """A tensor that grows along one dimension, with spare capacity of an eighth.

    New entries are written in place. Where gradients may flow they are concatenated instead, since
    writing in place would spoil what autograd saved. The same holds after an inference mode.

    Attributes:
        value: the entries so far, a view of the buffer; None while there are none.
        length: how many there are.
    """

    def __init__(self, dim: int = 1) -> None:
        self.dim, self.length = dim, 0
        self._buffer: Tensor | None = None
        self.value: Tensor | None = None

    @classmethod
    def holding(cls, value: Tensor, dim: int = 1) -> "GrowableBuffer":
        """A buffer without spare capacity; the next append reallocates and leaves `value` alone."""
        buffer = cls(dim)
        buffer.append(value)
        return buffer

    def append(self, new: Tensor) -> Tensor:
        """Takes in new entries and returns all of them."""
        count = new.shape[self.dim]
        end = self.length + count
        buffer, value = self._buffer, self.value
        if buffer is None or value is None:
            # A long first piece is stored as it is; most buffers never get a second one.
            buffer = new
        elif torch.is_grad_enabled() or _is_closed(buffer):
            buffer = torch.cat([value, new.to(buffer)], dim=self.dim)
        else:
            if end > buffer.shape[self.dim]:
                shape = list(value.shape)
                shape[self.dim] = end + max(end // 8, 64)
                buffer = value.new_empty(shape)
                buffer.narrow(self.dim, 0, self.length).copy_(value)
            buffer.narrow(self.dim, self.length, count).copy_(new)
        self.length = end
        return self._hold(buffer)

    def cut(self, length: int) -> None:
        """Drops all entries from `length` on."""
        self.length = min(length, self.length)
        if not self.length or self.value is None:
            self._buffer = self.value = None
        else:
            # A caller, or a copy of this, may still read the dropped entries: nothing may be
            # written over them.
            self._hold(self.value.narrow(self.dim, 0, self.length).clone())

    def replace(self, value: Tensor) -> None:
        """Puts other entries in place of all, as many."""
        self._hold(value)

    def change_batch(self, change: Callable[[Tensor], Tensor]) -> None:
        """Replaces the buffer by `change(buffer)`: other rows of the batch, same tokens."""
        if self._buffer is not None:
            self._hold(change(self._buffer))

    def _hold(self, buffer: Tensor) -> Tensor:
        self._buffer = buffer
        self.value = value = buffer.narrow(self.dim, 0, self.length)
        return value


def _is_closed(buffer: Tensor) -> bool:
    """True if only an inference mode may write to the buffer, and none is on."""
    return buffer.is_inference() and not torch.is_inference_mode_enabled()


class StaticBuffer(GrowableBuffer):
    """A buffer with all of its capacity from the start, at an address that never changes.

    `value` is the whole buffer; unused entries hold `fill`. The number of used ones is a tensor, so
    that a compiled step or a recorded CUDA graph can append.
    """

    def __init__(self, capacity: int, fill: int = 0, dim: int = 1) -> None:
        super().__init__(dim)
        self.capacity, self.fill = capacity, fill
        self.count = torch.zeros((), dtype=torch.long)

    def append(self, new: Tensor) -> Tensor:
        if self.value is None:
            shape = list(new.shape)
            shape[self.dim] = self.capacity
            self.value = new.new_full(shape, self.fill)
            self.count = self.count.to(new.device)
            if not torch.compiler.is_compiling():
                # Recorded graphs read and write these at their addresses.
                torch._dynamo.mark_static_address(self.value)
                torch._dynamo.mark_static_address(self.count)
        count = new.shape[self.dim]
        where = self.count + torch.arange(count, device=new.device)
        self.value.index_copy_(self.dim, where, new.to(self.value))
        self.count.add_(count)
        return self.value

    def refill(self, value: Tensor, count: Tensor) -> None:
        """Overwrites the whole buffer, `count` entries of which are used."""
        if self.value is None:
            self.append(value.narrow(self.dim, 0, 0))
        assert self.value is not None
        self.value.copy_(value)
        self.count.copy_(count)

    def replace(self, value: Tensor) -> None:
        assert self.value is not None
        self.value.copy_(value)

    def change_batch(self, change: Callable[[Tensor], Tensor]) -> None:
        if self.value is not None:
            changed = change(self.value)
            if changed.shape == self.value.shape:
                self.value.copy_(changed)
            else:
                self.value = changed


class BlockCache:
    """One block's products of one learner's source tokens.

    Attributes:
        compressed: s A_k and s A_v, `[B, 2, S, r]`.
        keys: rope(K), `[B, H, d, S]`; None in models too large to keep them.
    """

    def __init__(self, make: Callable[..., GrowableBuffer], keeps_keys: bool) -> None:
        self.keeps_keys = keeps_keys
        self.compressed = make(0, COMPRESSED)
        self.keys = make(0, KEYS) if keeps_keys else None

    def leave_keys_out(self) -> None:
        """Keeps no keys: a kernel makes them of the source tokens while it reads those."""
        self.keeps_keys, self.keys = False, None

    def update(
        self, compressed: Tensor | None, keys: Tensor | None, length: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Takes in the products of new tokens and returns those of all.

        Args:
            compressed: `[B, 2, n, r]`, or None where there are no new tokens.
            keys: `[B, H, d, n]` likewise.
            length: where static buffers are overwritten whole, how many entries are used.
        """
        for buffer, value in ((self.compressed, compressed), (self.keys, keys)):
            if buffer is None or value is None:
                continue
            if length is None:
                buffer.append(value)
            else:
                assert isinstance(buffer, StaticBuffer), "only static buffers are overwritten"
                buffer.refill(value, length)
        whole = self.compressed.value
        assert whole is not None, "the pass sees source tokens, so there are products of them"
        return whole, None if self.keys is None else self.keys.value


class GrowingLayer(DynamicLayer):
    """A `DynamicLayer` with spare capacity, where the original copies everything at every token.

    `keys` and `values` are views of the buffers. After a caller has replaced them (cropping and
    reordering do) they are copied at the next token, so nothing handed out is overwritten.
    """

    def __init__(self) -> None:
        super().__init__()
        self._buffers: tuple[GrowableBuffer, GrowableBuffer] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Takes in new keys and values, `[B, heads, T, width]`; returns all of them."""
        keys, values, buffers = self.keys, self.values, self._buffers
        is_empty = not self.is_initialized or not self.get_seq_length()
        if is_empty or keys is None or values is None or keys.dtype != key_states.dtype:
            return super().update(key_states, value_states, *args, **kwargs)
        # A shallow copy shares the buffers: the second to append is no longer at their end.
        if (
            buffers is None
            or buffers[0].value is not keys
            or buffers[1].value is not values
            or buffers[0].length != keys.shape[LENGTH]
        ):
            held = GrowableBuffer.holding(keys, LENGTH), GrowableBuffer.holding(values, LENGTH)
            buffers = self._buffers = held
        self.keys = buffers[0].append(key_states)
        self.values = buffers[1].append(value_states)
        return self.keys, self.values
