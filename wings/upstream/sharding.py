"""FSDP2 through accelerate and transformers' arguments, on a CPU too."""

import os
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.constants import FSDP_MODEL_NAME
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import TrainingArguments

from .contract import Contract

# Accelerate leaves this set, which would shard the next run of this process.
_LEFT_BEHIND = "ACCELERATE_USE_FSDP"


def shard_on_any_device(accelerator: Accelerator, arguments: TrainingArguments) -> bool:
    """Lets an accelerator shard with FSDP2, in this run only; False where it cannot.

    torch shards over gloo as over any backend. Accelerate supports accelerators only, and would
    silently run DDP on a CPU.
    """
    os.environ.pop(_LEFT_BEHIND, None)
    state = accelerator.state
    if state.distributed_type == DistributedType.MULTI_CPU:
        state.fsdp_plugin = FullyShardedDataParallelPlugin(**arguments.fsdp_plugin_args)
        # In both, as accelerate itself does: one overwrites the other.
        state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
    return accelerator.is_fsdp2


def gather_as_one(
    plugin: FullyShardedDataParallelPlugin,
    units: set[type[nn.Module]],
    parameters: torch.dtype | None,
) -> None:
    """Names the classes whose weights are gathered as one, and the type they are gathered in.

    Gradients are summed in float32.
    """
    plugin.transformer_cls_names_to_wrap = sorted(unit.__name__ for unit in units)
    plugin.mixed_precision_policy = MixedPrecisionPolicy(
        param_dtype=parameters, reduce_dtype=torch.float32
    )


def gather_whole_state(accelerator: Accelerator) -> None:
    """Makes the next save gather the weights of the whole model."""
    accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")


def is_sharded_checkpoint(checkpoint: Path) -> bool:
    """True where a checkpoint of `Trainer` holds shards."""
    return (checkpoint / f"{FSDP_MODEL_NAME}_0").is_dir()


CONTRACTS = (
    Contract(
        "accelerate",
        "1.13",
        "an accelerator reads fsdp_plugin and distributed_type of its state when it prepares a "
        "model, and shards by transformer_cls_names_to_wrap and mixed_precision_policy",
        (
            "accelerate.state:AcceleratorState",
            "accelerate:PartialState",
            "accelerate:Accelerator.is_fsdp2",
            "accelerate.utils:FullyShardedDataParallelPlugin(fsdp_version, "
            "transformer_cls_names_to_wrap, mixed_precision_policy, state_dict_type)",
            "accelerate.utils:FullyShardedDataParallelPlugin.set_state_dict_type",
            "accelerate.utils:DistributedType.MULTI_CPU",
            "accelerate.utils:DistributedType.FSDP",
        ),
    ),
    Contract(
        "accelerate",
        "1.13",
        "a sharded checkpoint is a folder <FSDP_MODEL_NAME>_0 in the folder of the checkpoint",
        ("accelerate.utils.constants:FSDP_MODEL_NAME",),
    ),
)
