"""Converts a recipe to transformers' `TrainingArguments`."""

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from wings.errors import WingsError
from wings.train.recipe import Recipe
from wings.upstream.arguments import set_checkpointing, use_one_device

from .distributed import parallel_arguments, validate_distributed


def training_arguments(
    recipe: Recipe, folder: Path, steps: int, has_evaluation: bool = False
) -> TrainingArguments:
    """Arguments for `Trainer`; joins the process group when torchrun started this process.

    Args:
        recipe: recipe of the run.
        folder: output folder.
        steps: optimiser steps of the whole run.
        has_evaluation: whether the run evaluates held-out records.

    Raises:
        WingsError: `batch_size` cannot be split over the processes, or `parallel` cannot run here.
    """
    spread: dict[str, Any] = parallel_arguments(recipe)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        learning_rate=max(recipe.learning_rates.values(), default=1e-3),
        lr_scheduler_type="cosine",
        warmup_steps=recipe.warmup_ratio,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        seed=recipe.seed,
        data_seed=recipe.seed,
        bf16=recipe.bf16,
        # Explicit, because transformers refuses bf16 on a CPU that it only detected.
        use_cpu=not torch.accelerator.is_available(),
        **spread,
        dataloader_num_workers=recipe.workers,
        dataloader_persistent_workers=recipe.workers > 0,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=recipe.log_every,
        logging_first_step=True,
        # A NaN loss must be visible, not filtered.
        logging_nan_inf_filter=False,
        save_strategy="steps" if recipe.save_every else "no",
        save_steps=recipe.save_every or 500,
        eval_strategy="steps" if has_evaluation else "no",
        eval_steps=recipe.evaluate.interval(steps),
        eval_on_start=has_evaluation,
        # `make_trackers` creates them, so that a missing one is named early.
        report_to="none",
        remove_unused_columns=False,
        label_names=["labels"],
        average_tokens_across_devices=True,
        # The model gives every trained weight a gradient in every batch, with or without images.
        ddp_find_unused_parameters=False,
        disable_tqdm=True,
        log_level="error",
        log_level_replica="error",
        # `Trainer` would write False into the saved configuration; the forward decides itself.
        use_cache=True,
    )
    validate_distributed(recipe, arguments)
    # Set afterwards: transformers warns of a second gather, which FSDP2 does not do.
    set_checkpointing(arguments, recipe.gradient_checkpointing)
    use_one_device(arguments)
    _split_batch(arguments, recipe)
    return arguments


def _split_batch(arguments: TrainingArguments, recipe: Recipe) -> None:
    ranks = arguments.world_size
    share, rest = divmod(recipe.batch_size, ranks)
    if rest:
        raise WingsError(f"batch_size: {recipe.batch_size} cannot be split over {ranks} processes.")
    size = min(recipe.device_batch_size or share, share)
    if share % size:
        raise WingsError(
            f"device_batch_size: {size} does not divide the {share} samples of each of {ranks}"
            f" processes (batch_size {recipe.batch_size})."
        )
    arguments.per_device_train_batch_size = size
    arguments.gradient_accumulation_steps = share // size
