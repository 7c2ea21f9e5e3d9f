"""`is_sharded`: whether the weights of a module are spread over processes."""

import torch
from torch import nn


def is_sharded(module: nn.Module) -> bool:
    """True if all processes must run a module together, as each holds a shard of its weights."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return False
    # Builds of torch without distributed lack these.
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor import DTensor

    return any(isinstance(one, FullyShardedDataParallel) for one in module.modules()) or any(
        isinstance(parameter, DTensor) for parameter in module.parameters()
    )
