"""`chunked_loss`: the loss of many tokens without the logits of all of them at one time.

The gradient is computed in the forward pass, as Liger's fused cross-entropy does it. A chunk's
logits are then needed once, so that no product is repeated and none of them waits for the backward.
`torch.nn.functional.linear_cross_entropy` does the same. It was not taken: it knows plain linear
heads only, and in bfloat16 it returns the loss in bfloat16, with three digits.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from wings.errors import WingsError

LossOf = Callable[[Tensor, Tensor], Tensor]


class ChunkedHead:
    """Takes the place of an output head whose logits are wanted for the loss only.

    Args:
        head: the output head, `[..., D]` -> `[..., V]`.
        mask: `[B, T]` bool, True for N tokens; None for all tokens that reach the head.
        labels: int64, N in reading order; -100 has no loss.
        chunk: tokens whose logits exist at one time.
        loss_of: (the head, hidden states `[n, D]`, labels `[n]`) to the sum of their losses.
        needs_all: called before the head runs; True if all logits are needed after all.

    Attributes:
        loss: the sum over all tokens, a scalar; None if all logits are needed.
    """

    def __init__(
        self,
        head: nn.Module,
        mask: Tensor | None,
        labels: Tensor,
        chunk: int,
        loss_of: Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor],
        needs_all: Callable[[], bool],
    ) -> None:
        self.head, self.mask, self.labels, self.chunk = head, mask, labels, chunk
        self.loss_of, self.needs_all = loss_of, needs_all
        self.loss: Tensor | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        """Computes the loss of `[B, T, D]`; returns no logits, `[1, 0, 0]`, or all, `[1, N, V]`."""
        chosen = hidden if self.mask is None else hidden[self.mask.to(hidden.device)]
        if self.needs_all():
            return self.head(chosen.flatten(0, -2)[None])
        # Sharded weights are gathered by each call of their module, which must then be one call:
        # processes have other numbers of chunks.
        with called_once(self.head, self._loss) as head:
            self.loss = head(chosen.flatten(0, -2))
        return hidden.new_zeros(1, 0, 0)

    def _loss(self, head: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
        trained = [weight for weight in self.head.parameters() if weight.requires_grad]
        labels = self.labels.flatten().to(hidden.device)
        return chunked_loss(partial(self.loss_of, head), hidden, labels, self.chunk, trained)

    def __getattr__(self, name: str) -> Any:
        if name == "head":
            raise AttributeError(name)
        return getattr(self.head, name)


@contextlib.contextmanager
def called_once(
    module: nn.Module, work: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]
) -> Iterator[Callable[[Tensor], Tensor]]:
    """Gives a function that calls a module once, with `work` in place of its forward.

    Args:
        module: whose hooks run around `work`.
        work: gets what computes the module's own result, and the argument.
    """
    if "forward" in vars(module):
        # Some library has put its own code there, such as one that brings offloaded weights.
        yield partial(work, module)
        return
    own = module.forward
    vars(module)["forward"] = partial(work, own)
    try:
        yield module
    finally:
        del vars(module)["forward"]


def validate_chunked(
    chunk: int, labels: Tensor | None, logits_to_keep: int | Tensor, of_loss: Mapping[str, Any]
) -> None:
    """Raises a `WingsError` for chunks of no tokens, or a loss that no labels belong to."""
    if chunk < 1:
        raise WingsError(f"loss_chunk is {chunk}, but a chunk has tokens: leave it out for all.")
    if labels is None:
        raise WingsError(f"loss_chunk is {chunk}, but there are no labels: give both or neither.")
    chosen = isinstance(logits_to_keep, Tensor) or logits_to_keep != 0
    if chosen and "shift_labels" not in of_loss:
        raise WingsError(
            "logits_to_keep is given without shift_labels, so a loss with loss_chunk cannot tell"
            " which labels are of its tokens; give shift_labels, or leave logits_to_keep out."
        )


def validate_loss_keywords(given: Mapping[str, Any]) -> None:
    """Raises a `WingsError` for a keyword of the loss function that chunks would not read."""
    if "ignore_index" in given:
        raise WingsError("ignore_index and loss_chunk exclude each other: use -100 in the labels.")


def mean_of_items(
    loss: Tensor, shift_labels: Tensor, num_items_in_batch: int | Tensor | None = None
) -> Tensor:
    """A summed loss over the number of items, by default that of the labels."""
    if num_items_in_batch is None:
        num_items_in_batch = (shift_labels != -100).sum()
    if isinstance(num_items_in_batch, Tensor):
        num_items_in_batch = num_items_in_batch.to(loss.device)
    return loss / num_items_in_batch


def chunked_loss(
    loss_of: LossOf, hidden: Tensor, labels: Tensor, chunk: int, trained: Sequence[nn.Parameter]
) -> Tensor:
    """Sums a loss over tokens, for one chunk of them after the other.

    Args:
        loss_of: (hidden states `[n, D]`, labels `[n]`) to the sum of their losses, a scalar.
        hidden: `[N, D]`.
        labels: `[N]` int64.
        chunk: tokens of a chunk, n.
        trained: weights that `loss_of` reads and that get a gradient.

    Returns:
        a scalar in the dtype of `loss_of`, differentiable once.
    """
    needs_gradient = hidden.requires_grad or bool(trained)
    if len(hidden) <= chunk or not (torch.is_grad_enabled() and needs_gradient):
        parts = zip(hidden.split(chunk), labels.split(chunk), strict=True)
        first, *rest = (loss_of(*part) for part in parts)
        return sum(rest, first)
    return _ChunkedLoss.apply(loss_of, labels, chunk, hidden, *trained)


class _ChunkedLoss(torch.autograd.Function):
    """The sum, with its gradients of hidden states and weights."""

    @staticmethod
    def forward(
        ctx: Any, loss_of: LossOf, labels: Tensor, chunk: int, hidden: Tensor, *trained: Tensor
    ) -> Tensor:
        of_hidden, *of_trained = ctx.needs_input_grad[3:]
        wanted = [weight for weight, needed in zip(trained, of_trained, strict=True) if needed]
        # In bfloat16 a sum over many chunks would lose digits.
        sums = [
            torch.zeros_like(one, dtype=torch.promote_types(one.dtype, torch.float32))
            for one in wanted
        ]
        losses, gradients = [], []
        for part, targets in zip(hidden.split(chunk), labels.split(chunk), strict=True):
            with torch.enable_grad():
                part = part.detach().requires_grad_(of_hidden)
                loss = loss_of(part, targets)
                found = torch.autograd.grad(
                    loss, [part] * of_hidden + wanted, materialize_grads=True
                )
            losses.append(loss.detach())
            if of_hidden:
                gradients.append(found[0])
            for total, gradient in zip(sums, found[of_hidden:], strict=True):
                total += gradient
            # Those of a large head, which would stay through the next chunk.
            del found, loss
        ctx.save_for_backward(
            *([torch.cat(gradients)] if of_hidden else []),
            *(total.to(one.dtype) for total, one in zip(sums, wanted, strict=True)),
        )
        return torch.stack(losses).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = outputs
        saved = iter(ctx.saved_tensors)
        return (
            None, None, None,
            *(next(saved) * scale if needed else None for needed in ctx.needs_input_grad[3:]),
        )  # fmt: skip
