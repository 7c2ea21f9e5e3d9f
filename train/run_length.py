"""The length of a run: its steps, and a run of fewer steps that goes on to more."""

import math
from pathlib import Path

from wings.errors import WingsError
from wings.train.recipe import Recipe
from wings.upstream.trainer import state_of

from .data.bucketing import BatchingSampler
from .data.sampler import RecordSampler
from .run_folder import RunFolder, step_of


def steps_of(recipe: Recipe, sampler: RecordSampler | BatchingSampler) -> int:
    """Optimiser steps of a run over the samples of `sampler`."""
    return recipe.steps or math.ceil(recipe.epochs * len(sampler) / recipe.batch_size)


def validate_length(
    folder: RunFolder, recipe: Recipe, sampler: RecordSampler, last: Path | None
) -> None:
    """Raise a `WingsError` if the run in the folder cannot go on to another number of steps.

    Args:
        folder: folder of the run.
        recipe: with the new number.
        sampler: the samples of an epoch.
        last: the checkpoint to resume from, if any.
    """
    saved = folder.saved_recipe()
    if saved is None or folder.is_of(recipe):
        return
    steps, before = steps_of(recipe, sampler), steps_of(saved, sampler)
    if steps < before:
        raise WingsError(
            f"output: {folder.path} contains a run of {before:,} steps, and this recipe has"
            f" {steps:,}; set more steps to go on from it, or choose another output."
        )
    if folder.has_result and last is None:
        further = (
            f"to train its model further, set start={folder.path}, model=null,"
            f" steps={steps - before} and another output"
        )
        raise WingsError(
            f"output: {folder.path} contains a finished run of {before:,} steps without a"
            f" checkpoint to go on from; {further if steps > before else 'delete it to rerun'}."
        )


def describe_resume(last: Path, steps: int) -> str:
    """One line on where a run resumes."""
    before, step = state_of(last).max_steps, step_of(last)
    if before < steps:
        return (
            f"{last}: the run of {before:,} steps goes on from step {step:,} to {steps:,}; its"
            f" learning rates so far were those of {before:,} steps."
        )
    return f"resuming from step {step:,} of {steps:,}: {last}"
