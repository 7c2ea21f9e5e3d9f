"""`Rows`: a tensor that grows along its second dimension without being copied at every token."""

from collections.abc import Callable

import torch
from torch import Tensor


class Rows:
    """Rows `[B, n, ...]`, appended in place into room that grows by an eighth at a time.

    Where gradients flow they are joined instead: writing in place would spoil what autograd kept.
    """

    def __init__(self) -> None:
        self.buffer: Tensor | None = None
        self.length = 0

    @property
    def all(self) -> Tensor | None:
        """The rows so far, a view `[B, n, ...]`, or None before the first."""
        return None if self.buffer is None else self.buffer[:, : self.length]

    def append(self, new: Tensor) -> None:
        """Takes in `new [B, T, ...]`."""
        end = self.length + new.shape[1]
        if self.buffer is None:
            # A first, long piece is kept as it is; most rows never see a second.
            self.buffer = new
        elif new.requires_grad or self.buffer.requires_grad:
            self.buffer = torch.cat([self.all, new.to(self.buffer)], dim=1)
        else:
            if end > self.buffer.shape[1]:
                self._make_room(end + max(end // 8, 64))
            self.buffer[:, self.length : end] = new
        self.length = end

    def cut(self, length: int) -> None:
        """Forgets all rows from `length` on."""
        self.length = min(length, self.length)
        if self.buffer is not None and self.buffer.requires_grad:
            self.buffer = self.all

    def change(self, how: Callable[[Tensor], Tensor]) -> None:
        """Puts `how(buffer)` in the place of the buffer: other rows of the batch, same tokens."""
        if self.buffer is not None:
            self.buffer = how(self.buffer)

    def _make_room(self, capacity: int) -> None:
        old = self.all
        self.buffer = old.new_empty(old.shape[0], capacity, *old.shape[2:])
        self.buffer[:, : self.length] = old


class FixedRows(Rows):
    """Rows with all their room from the start, at an address that never changes.

    `all` is the whole room, rows that are not there yet hold `fill`; their number is a tensor, so
    that a compiled step or a recorded graph can append.
    """

    def __init__(self, capacity: int, fill: int = 0) -> None:
        super().__init__()
        self.capacity, self.fill = capacity, fill
        self.count = torch.zeros((), dtype=torch.long)

    @property
    def all(self) -> Tensor | None:
        return self.buffer

    def append(self, new: Tensor) -> None:
        if self.buffer is None:
            shape = (new.shape[0], self.capacity, *new.shape[2:])
            self.buffer = new.new_full(shape, self.fill)
            self.count = self.count.to(new.device)
            if not torch.compiler.is_compiling():
                # Recorded graphs read and write these where they are.
                torch._dynamo.mark_static_address(self.buffer)
                torch._dynamo.mark_static_address(self.count)
        where = self.count + torch.arange(new.shape[1], device=new.device)
        self.buffer.index_copy_(1, where, new.to(self.buffer))
        self.count.add_(new.shape[1])

    def refill(self, rows: Tensor, count: Tensor) -> None:
        """Takes `rows [B, capacity, ...]` for all there is, `count` of them filled."""
        if self.buffer is None:
            self.append(rows[:, :0])
        self.buffer.copy_(rows)
        self.count.copy_(count)

    def cut(self, length: int) -> None:
        if self.buffer is not None:
            self.buffer[:, length:] = self.fill
            self.count.fill_(min(length, int(self.count)))

    def change(self, how: Callable[[Tensor], Tensor]) -> None:
        if self.buffer is not None:
            changed = how(self.buffer)
            if changed.shape == self.buffer.shape:
                self.buffer.copy_(changed)
            else:
                self.buffer = changed
