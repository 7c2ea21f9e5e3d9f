"""`python -m wings.train RECIPE.yaml [key=value ...]`, or on several GPUs:

    torchrun --standalone --nproc-per-node 8 -m wings.train RECIPE.yaml [key=value ...]

Before training, every later step runs once on a few samples (`preflight.py`). The same command
resumes an interrupted run. On SIGTERM or SIGUSR1 it saves a checkpoint after the current step and
exits with code 75: not finished.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial

from wings.endings import run_command
from wings.errors import WingsError
from wings.extras import require
from wings.train.recipe_file import find_recipe, shipped_recipes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one recipe; see `run` for the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m wings.train", description="Train one stage of a Wings model from a recipe."
    )
    parser.add_argument(
        "recipe", help=f"a YAML file, or a shipped recipe: {', '.join(shipped_recipes())}"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="learning_rates.projector=1e-4 ..."
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    given = parser.parse_args(arguments)
    work = partial(run, given.recipe, given.overrides)
    return run_command("wings.train", work, given.debug)


def run(recipe: str, overrides: Sequence[str], name: str = "wings.train") -> int:
    """Run one recipe and print its result or its error.

    Args:
        recipe: a file, or the name of a shipped recipe.
        overrides: `key=value` for single keys.
        name: prefix of messages.

    Returns:
        0 on success, 2 after a `WingsError`, `NOT_FINISHED` if a signal stopped the run.

    Raises:
        PreflightError: a library failed in the preflight.
        Exception: nearly any, from a library in training; `run_command` makes it a sentence.
    """
    require("train")
    # Imported here: `--help` needs none of them, and a missing extra is named first.
    import torch

    from wings.train.preflight import preflight
    from wings.train.recipe import Recipe
    from wings.train.run import train
    from wings.train.start import validate_written

    from .signals import NOT_FINISHED, DistributedStop, Preempted

    first = os.environ.get("RANK", "0") == "0"
    # Tokenisers are forked into data workers, where their threads would only warn.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        file = find_recipe(recipe)
        plan = Recipe.from_yaml(file, overrides)
        validate_written(plan, file)
        preflight(plan, file)
        result = train(plan)
    except WingsError as error:
        if first or not isinstance(error, DistributedStop):
            print(f"{name}: {error}", file=sys.stderr)
        return NOT_FINISHED if isinstance(error, Preempted) else 2
    except KeyboardInterrupt:
        print(f"{name}: stopped; {_after_stop(recipe, overrides)}.")
        return 130
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    if first:
        last = f", loss {result.losses[-1]:.4f}" if result.losses else ""
        print(f"{result.folder}: {result.steps:,} steps, {result.seconds:,.0f} s{last}")
    return 0


def _after_stop(recipe: str, overrides: Sequence[str]) -> str:
    """A phrase on the next start of the same command."""
    from wings.train.recipe import Recipe
    from wings.train.run_folder import RunFolder

    last = RunFolder(Recipe.from_yaml(find_recipe(recipe), overrides).output).last_checkpoint()
    if last is None:
        return "no checkpoint was saved, so the same command starts again"
    return f"the same command resumes from {last}"


if __name__ == "__main__":
    sys.exit(main())
