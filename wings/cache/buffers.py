"""`Rows`: a tensor that grows along one dimension without being copied at every token."""

from collections.abc import Callable

import torch
from torch import Tensor


class Rows:
    """Rows, `[B, n, ...]` where they grow along dimension 1, with room that grows by an eighth.

    New ones are written in place. Where gradients may flow they are joined instead, as writing in
    place would spoil what autograd kept; so are those that follow rows of an inference mode.
    """

    def __init__(self, dim: int = 1) -> None:
        self.buffer: Tensor | None = None
        self.dim, self.length = dim, 0

    @classmethod
    def holding(cls, rows: Tensor, dim: int = 1) -> "Rows":
        """Such as have no room yet, so that the next to come leave these where they are."""
        held = cls(dim)
        held.append(rows)
        return held

    @property
    def all(self) -> Tensor:
        """The rows so far, a view; only where there are some."""
        assert self.buffer is not None, "no rows were appended yet"
        return self.buffer.narrow(self.dim, 0, self.length)

    def append(self, new: Tensor) -> None:
        """Takes in new rows, `[B, T, ...]`."""
        count = new.shape[self.dim]
        end = self.length + count
        buffer = self.buffer
        if buffer is None:
            # A first, long piece is kept as it is; most rows never see a second.
            self.buffer = new
        elif torch.is_grad_enabled() or is_closed(buffer):
            self.buffer = torch.cat([self.all, new.to(buffer)], dim=self.dim)
        else:
            if end > buffer.shape[self.dim]:
                buffer = self._make_room(end + max(end // 8, 64))
            buffer.narrow(self.dim, self.length, count).copy_(new)
        self.length = end

    def cut(self, length: int) -> None:
        """Forgets all rows from `length` on."""
        self.length = min(length, self.length)
        # The next may be written over rows that a caller, or a copy of this, still looks at.
        self.buffer = self.all.clone() if self.length else None

    def replace(self, rows: Tensor) -> None:
        """Puts as many other rows in the place of all."""
        self.buffer = rows

    def change(self, how: Callable[[Tensor], Tensor]) -> None:
        """Puts `how(buffer)` in the place of the buffer: other rows of the batch, same tokens."""
        if self.buffer is not None:
            self.buffer = how(self.buffer)

    def _make_room(self, capacity: int) -> Tensor:
        old = self.all
        shape = list(old.shape)
        shape[self.dim] = capacity
        self.buffer = buffer = old.new_empty(shape)
        self.all.copy_(old)
        return buffer


def is_closed(buffer: Tensor) -> bool:
    """Whether only an inference mode may write to the buffer, and none is on."""
    return buffer.is_inference() and not torch.is_inference_mode_enabled()


class FixedRows(Rows):
    """Rows with all their room from the start, at an address that never changes.

    `all` is the whole room, rows that are not there yet hold `fill`; their number is a tensor, so
    that a compiled step or a recorded graph can append.
    """

    def __init__(self, capacity: int, fill: int = 0, dim: int = 1) -> None:
        super().__init__(dim)
        self.capacity, self.fill = capacity, fill
        self.count = torch.zeros((), dtype=torch.long)

    @property
    def all(self) -> Tensor:
        assert self.buffer is not None, "no rows were appended yet"
        return self.buffer

    def append(self, new: Tensor) -> None:
        if self.buffer is None:
            shape = list(new.shape)
            shape[self.dim] = self.capacity
            self.buffer = new.new_full(shape, self.fill)
            self.count = self.count.to(new.device)
            if not torch.compiler.is_compiling():
                # Recorded graphs read and write these where they are.
                torch._dynamo.mark_static_address(self.buffer)
                torch._dynamo.mark_static_address(self.count)
        count = new.shape[self.dim]
        where = self.count + torch.arange(count, device=new.device)
        self.buffer.index_copy_(self.dim, where, new.to(self.buffer))
        self.count.add_(count)

    def refill(self, rows: Tensor, count: Tensor) -> None:
        """Takes rows for all the room there is, `count` of them filled."""
        if self.buffer is None:
            self.append(rows.narrow(self.dim, 0, 0))
        self.all.copy_(rows)
        self.count.copy_(count)

    def replace(self, rows: Tensor) -> None:
        self.all.copy_(rows)

    def change(self, how: Callable[[Tensor], Tensor]) -> None:
        if self.buffer is not None:
            changed = how(self.buffer)
            if changed.shape == self.buffer.shape:
                self.buffer.copy_(changed)
            else:
                self.buffer = changed
