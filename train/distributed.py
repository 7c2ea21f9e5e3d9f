"""How a run is spread over processes: whole copies (DDP) or shards (FSDP2)."""

import os
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import nn
from transformers import TrainingArguments
from transformers.training_args import ParallelMode

from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.train.recipe import Recipe
from wings.upstream.sharding import gather_as_one, is_sharded_checkpoint, shard_on_any_device

_SHARDS = {"version": 2, "reshard_after_forward": True, "state_dict_type": "SHARDED_STATE_DICT"}


def is_launched() -> bool:
    """Whether torchrun (or another launcher that speaks its language) started this process."""
    return "LOCAL_RANK" in os.environ


def parallel_arguments(recipe: Recipe) -> dict[str, Any]:
    """What `parallel` means in the words of `TrainingArguments`; nothing for a lone process."""
    if recipe.parallel == "ddp" or not is_launched():
        return {}
    return {"fsdp": True, "fsdp_config": dict(_SHARDS)}


def refuse_undistributed(recipe: Recipe, arguments: TrainingArguments) -> None:
    """Raise a `WingsError` where a launched run would not be spread as the recipe says."""
    if is_launched() and arguments.parallel_mode != ParallelMode.DISTRIBUTED:
        raise WingsError(
            f"parallel: {recipe.parallel} was launched in several processes, but there is no way"
            f" to join them on {arguments.device.type}; start one process, without torchrun."
        )


def refuse_other_checkpoints(recipe: Recipe, checkpoint: Path | None) -> None:
    """Raise a `WingsError` where the checkpoint to go on from was written the other way.

    Within one way the number of processes may change.
    """
    wanted = recipe.parallel if is_launched() else "ddp"
    if checkpoint is None or kind_of(checkpoint) == wanted:
        return
    found = kind_of(checkpoint)
    launched = found == "ddp" or is_launched()
    how = "" if launched else "torchrun (--nproc-per-node 1 will do) and "
    raise WingsError(
        f"parallel: {checkpoint} was written with {found} and cannot go on with {wanted}: continue"
        f" with {how}parallel: {found}, or remove the checkpoints to begin again."
    )


def kind_of(checkpoint: Path) -> str:
    """`ddp` (whole) or `fsdp` (sharded): how a checkpoint was written."""
    return "fsdp" if is_sharded_checkpoint(checkpoint) else "ddp"


def take_up(accelerator: Accelerator, arguments: TrainingArguments) -> None:
    """See that accelerate shards, on a CPU too, and in this run only.

    Raises:
        WingsError: it cannot shard on this device.
    """
    if not shard_on_any_device(accelerator, arguments):
        raise WingsError(
            f"parallel: fsdp cannot shard on {accelerator.device.type} here; take ddp."
        )


def describe_shards(
    plugin: FullyShardedDataParallelPlugin, model: WingsForCausalLM, bf16: bool
) -> None:
    """Tell accelerate what is gathered and freed as one, and in which type.

    Weights are gathered and used in bfloat16 under `bf16`, gradients are always summed in float32;
    every process keeps its shard of a weight in the type that `stage.prepare` gave it.
    """
    gather_as_one(plugin, unit_classes(model), torch.bfloat16 if bf16 else None)


def unit_classes(model: WingsForCausalLM) -> set[type[nn.Module]]:
    """What is gathered as one: the decoder's blocks and the vision tower; the rest goes by itself.

    Raises:
        WingsError: the decoder does not keep its blocks in a list.
    """
    decoder = model.model.language_model
    count = decoder.config.num_hidden_layers
    # The first such list is the outermost: one of experts would stand inside a block.
    lists = (m for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m) == count)
    blocks = next(lists, None)
    if blocks is None:
        raise WingsError(
            f"parallel: {type(decoder).__name__} keeps its {count} blocks in no list, so they"
            " cannot be told apart and sharded; take ddp."
        )
    return {type(part) for part in (*blocks, model.model.vision_tower)}
