"""Distributes a run over processes: replicas (DDP) or shards (FSDP2)."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin, gather_object
from torch import nn
from transformers import TrainingArguments
from transformers.training_args import ParallelMode

from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.train.recipe import Recipe
from wings.upstream.sharding import gather_as_one, is_sharded_checkpoint, shard_on_any_device

from .signals import DistributedStop

_SHARDS = {"version": 2, "reshard_after_forward": True, "state_dict_type": "SHARDED_STATE_DICT"}


def is_launched() -> bool:
    """True if torchrun, or a launcher with the same variables, started this process."""
    return "LOCAL_RANK" in os.environ


def is_first_process() -> bool:
    """True in the first of all processes, also before they are joined."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def first_alone(is_first: bool) -> Iterator[None]:
    """Wraps work of the first process; the others wait and fail with it.

    Raises:
        DistributedStop: on every other process, if the first one failed.
    """
    failed: Exception | None = None
    try:
        yield
    except Exception as error:
        failed = error
    sentences = gather_object([None if failed is None else str(failed)])
    if failed is not None:
        raise failed
    if not is_first and sentences[0] is not None:
        raise DistributedStop(sentences[0])


def parallel_arguments(recipe: Recipe) -> dict[str, Any]:
    """`TrainingArguments` for `parallel`; empty for a single process."""
    if recipe.parallel == "ddp" or not is_launched():
        return {}
    return {"fsdp": True, "fsdp_config": dict(_SHARDS)}


def validate_distributed(recipe: Recipe, arguments: TrainingArguments) -> None:
    """Raise a `WingsError` if launched processes cannot be joined as the recipe says."""
    if is_launched() and arguments.parallel_mode != ParallelMode.DISTRIBUTED:
        raise WingsError(
            f"parallel: {recipe.parallel} cannot join several processes on"
            f" {arguments.device.type}; start one process, without torchrun."
        )


def validate_checkpoint_kind(recipe: Recipe, checkpoint: Path | None) -> None:
    """Raise a `WingsError` if the checkpoint to resume from was written by the other mode.

    Within one mode the number of processes may change.
    """
    wanted = recipe.parallel if is_launched() else "ddp"
    if checkpoint is None or kind_of(checkpoint) == wanted:
        return
    written = kind_of(checkpoint)
    launched = written == "ddp" or is_launched()
    how = "" if launched else "torchrun (--nproc-per-node 1 suffices) and "
    raise WingsError(
        f"parallel: {checkpoint} was written with {written} and cannot be resumed with {wanted};"
        f" resume with {how}parallel: {written}, or delete the checkpoints to start again."
    )


def kind_of(checkpoint: Path) -> str:
    """`ddp` (whole) or `fsdp` (sharded): the mode that wrote a checkpoint."""
    return "fsdp" if is_sharded_checkpoint(checkpoint) else "ddp"


def enable_sharding(accelerator: Accelerator, arguments: TrainingArguments) -> None:
    """Make accelerate shard in this run, on CPUs too.

    Raises:
        WingsError: sharding is unavailable on this device.
    """
    if not shard_on_any_device(accelerator, arguments):
        raise WingsError(f"parallel: fsdp cannot shard on {accelerator.device.type} here; use ddp.")


def describe_shards(
    plugin: FullyShardedDataParallelPlugin, model: WingsForCausalLM, bf16: bool
) -> None:
    """Set the FSDP units and dtypes.

    With `bf16`, weights are gathered and used in bfloat16. Gradients are always reduced in float32.
    Every process keeps its shards in the dtype of `prepare_groups`.
    """
    gather_as_one(plugin, unit_classes(model), torch.bfloat16 if bf16 else None)


def unit_classes(model: WingsForCausalLM) -> set[type[nn.Module]]:
    """Classes of the FSDP units: the decoder's blocks and the senses' encoders.

    Raises:
        WingsError: the decoder has no list of blocks.
    """
    return {type(part) for part in (*blocks_of(model), *encoders_of(model))}


def encoders_of(model: WingsForCausalLM) -> list[nn.Module]:
    """The encoders of the senses."""
    return [model.model.encoder(sense) for sense in model.config.senses.values()]


def blocks_of(model: WingsForCausalLM) -> list[nn.Module]:
    """The decoder's blocks: the outermost list of as many modules as it has blocks.

    Raises:
        WingsError: there is no such list.
    """
    decoder = model.model.language_model
    count = decoder.config.num_hidden_layers
    # The first match is the outermost: a list of experts would be inside a block.
    for module in decoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise WingsError(
        f"{type(decoder).__name__} has no list of its {count} blocks, which parallel: fsdp and"
        " wings plan need; use parallel: ddp."
    )
