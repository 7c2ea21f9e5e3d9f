"""Finds tensors with NaN or infinite values, without temporary tensors of their size."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from wings.errors import WingsError

# A name, a tensor, and the dtype that it is about to be written in.
Named = tuple[str, Tensor, torch.dtype]


def first_not_finite(tensors: Iterable[Named]) -> str | None:
    """Name of the first tensor with a NaN or infinite value, or None.

    Values that overflow in the dtype of the file count too. Of a sharded tensor the shard of this
    process is looked at. The result is read once per device, not once per tensor.
    """
    extremes: dict[torch.device, list[tuple[str, Tensor]]] = {}
    for name, tensor, dtype in tensors:
        tensor = tensor.detach()
        tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        if not tensor.is_floating_point() or not tensor.numel() or tensor.is_meta:
            continue
        if tensor.dtype.itemsize == 1:
            tensor = tensor.float()
        # Both are NaN if any value is.
        bounds = torch.stack(torch.aminmax(tensor)).to(dtype).float()
        extremes.setdefault(bounds.device, []).append((name, bounds))
    for entries in extremes.values():
        finite = torch.isfinite(torch.stack([bounds for _, bounds in entries])).all(dim=1)
        for (name, _), is_finite in zip(entries, finite.tolist(), strict=True):
            if not is_finite:
                return name
    return None


def weights_of(model: nn.Module) -> Iterator[Named]:
    """All parameters of a model."""
    for name, parameter in model.named_parameters():
        yield f"the weight {name}", parameter, parameter.dtype


def optimizer_state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[Named]:
    """All tensors that an optimiser keeps for the parameters of a model."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for parameter, state in optimizer.state.items():
        name = names.get(id(parameter), "a weight")
        for key, tensor in state.items():
            if isinstance(tensor, Tensor):
                yield f"the optimizer's {key} of {name}", tensor, tensor.dtype


def validate_finite_start(model: nn.Module) -> None:
    """Raise a `WingsError` if a model has a non-finite weight before it is trained."""
    if name := first_not_finite(weights_of(model)):
        raise WingsError(
            f"The loaded model cannot be trained: {name} is not finite; use another checkpoint."
        )
