"""`python -m wings.train RECIPE.yaml [key=value ...]`, or on several GPUs:

    torchrun --standalone --nproc-per-node 8 -m wings.train RECIPE.yaml [key=value ...]

Before it trains, every later step is done once on a handful of samples (`preflight.py`).
The same line continues an interrupted run. SIGTERM or SIGUSR1 saves a checkpoint after the running
step and ends with exit code 75: not finished.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from wings.errors import WingsError
from wings.extras import require
from wings.train.shipped import find, names


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one recipe; see `run` for the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m wings.train", description="Train one stage of a Wings model from a recipe."
    )
    parser.add_argument("recipe", help=f"a YAML file, or a shipped recipe: {', '.join(names())}")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="learning_rates.projector=1e-4 ..."
    )
    given = parser.parse_args(arguments)
    return run(given.recipe, given.overrides)


def run(recipe: str, overrides: Sequence[str], name: str = "wings.train") -> int:
    """Run one recipe and print its result, or the sentence with which it was refused.

    Args:
        recipe: a file, or the name of a shipped recipe.
        overrides: `key=value` for single keys of it.
        name: begins the sentences.

    Returns:
        0 when it came to its end, 2 with a sentence when it was refused or cannot go on, 1 with a
        traceback when a library failed in the preflight,
        `NOT_FINISHED` when a signal stopped it.
    """
    try:
        require("train")
    except WingsError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    # Imported here: a missing extra is named before, and `--help` needs none of them.
    import torch

    from wings.train.preflight import PreflightError, preflight
    from wings.train.recipe import Recipe
    from wings.train.run import train

    from .signals import NOT_FINISHED, Agreed, Stopped

    first = os.environ.get("RANK", "0") == "0"
    # Tokenisers are forked into the data workers; their own threads would only warn about it.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        file = find(recipe)
        plan = Recipe.from_yaml(file, overrides)
        preflight(plan, file)
        result = train(plan)
    except WingsError as error:
        if first or not isinstance(error, Agreed):
            print(f"{name}: {error}", file=sys.stderr)
        return NOT_FINISHED if isinstance(error, Stopped) else 2
    except PreflightError as error:
        # Printed here: a launcher ends this process as soon as another one has missed it.
        traceback.print_exception(error)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: stopped; the same command goes on from the last checkpoint.")
        return 130
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    if first:
        last = f", loss {result.losses[-1]:.4f}" if result.losses else ""
        print(f"{result.folder}: {result.steps:,} steps, {result.seconds:,.0f} s{last}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
