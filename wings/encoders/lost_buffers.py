"""Buffers that no checkpoint holds, computed anew."""

from collections.abc import Callable

import torch
from torch import nn


def reset_lost_buffers(module: nn.Module, build: Callable[[], nn.Module]) -> None:
    """Recomputes, in place, the buffers of a module that are not in its state dict.

    Args:
        module: with weights on their device.
        build: makes a module of the same architecture; it is called only where buffers are lost.
    """
    lost = [name for name, _ in module.named_buffers() if name not in module.state_dict()]
    if not lost:
        return
    device = next(module.parameters()).device
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        fresh = dict(build().named_buffers())
    for name in lost:
        owner, _, leaf = name.rpartition(".")
        holder = module.get_submodule(owner)
        holder.register_buffer(
            leaf, fresh[name].to(device, holder.get_buffer(leaf).dtype), persistent=False
        )
