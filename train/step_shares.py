"""Shares of a training step's time: data, templates and tokens, encoders, passes, optimiser.

    python -m wings.train.step_shares RECIPE.yaml [key=value ...] --steps 20 --result shares.json

It trains the recipe in a folder that is thrown away, in one process that reads its data itself, and
times its parts. The first two steps warm up and do not count. Nothing is evaluated. With more
tokens than `loss_chunk`, the forward has the head's backward too. `wings plan` predicts the same
for a GPU.
"""

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from wings.endings import run_command
from wings.errors import WingsError
from wings.machine import processor_name, versions
from wings.model.causal_lm import WingsForCausalLM

from .data.collator import Collator, Packer
from .data.dataset import ConversationDataset
from .recipe import Recipe
from .recipe_file import find_recipe
from .run import train
from .trainer import WingsTrainer

WARM_UP = 2  # steps
READING, TEXT = "reading records and items", "templates and tokenising"
JOINING, FORWARD = "joining samples to batches", "forward"
BACKWARD, OPTIMISER, REST = "backward", "AdamW", "the rest"
# The places where a part begins and ends; the time of a part within another is its own.
PLACES = (
    (READING, ConversationDataset, "encode"),
    (TEXT, PreTrainedTokenizerBase, "__call__"),
    (TEXT, PreTrainedTokenizerBase, "apply_chat_template"),
    (JOINING, Collator, "__call__"),
    (JOINING, Packer, "__call__"),
    (FORWARD, WingsTrainer, "compute_loss"),
    (BACKWARD, Accelerator, "backward"),
    (OPTIMISER, torch.optim.AdamW, "step"),
)


@dataclass
class Clock:
    """Seconds of each part, without those of the parts within it.

    Attributes:
        seconds: by part.
        open: the parts that have begun, the innermost last.
        since: the time up to which all is counted.
    """

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    open: list[str] = field(default_factory=list)
    since: float = field(default_factory=time.perf_counter)

    def turn(self) -> None:
        """Counts the time since the last turn for the innermost open part."""
        # Kernels of a GPU run on after their launch.
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[self.open[-1] if self.open else REST] += now - self.since
        self.since = now

    def restart(self) -> None:
        """Forgets all that was counted."""
        self.turn()
        self.seconds.clear()

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """A function that counts the time of `call` for a part."""

        @wraps(call)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.turn()
            self.open.append(part)
            try:
                return call(*args, **kwargs)
            finally:
                self.turn()
                self.open.pop()

        return counted

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Counts all parts of trainings within."""
        with contextlib.ExitStack() as stack:
            for part, owner, name in PLACES:
                own = getattr(owner, name)
                stack.enter_context(mock.patch.object(owner, name, self.timed(part, own)))
            step = WingsTrainer.training_step

            def first(trainer: WingsTrainer, model: Any, *args: Any, **kwargs: Any) -> Any:
                # Encoders are known when the first step begins.
                if not encoders:
                    encoders.update(encoders_of(trainer.accelerator.unwrap_model(model)))
                    for kind, name in encoders.items():
                        timed = self.timed(f"encoder of {name}", kind.forward)
                        stack.enter_context(mock.patch.object(kind, "forward", timed))
                return step(trainer, model, *args, **kwargs)

            encoders: dict[Any, str] = {}
            stack.enter_context(mock.patch.object(WingsTrainer, "training_step", first))
            yield


def encoders_of(model: WingsForCausalLM) -> dict[type, str]:
    """The classes of the encoders, with the names of the senses that they serve."""
    names: dict[type, str] = {}
    for sense in model.config.senses.values():
        kind = type(model.model.encoder(sense))
        names[kind] = f"{names[kind]} and {sense.name}" if kind in names else sense.name
    return names


def measure_shares(recipe: Recipe, steps: int) -> dict[str, float]:
    """Mean seconds of each part of a step.

    Args:
        recipe: trained in its `output`, which should be new.
        steps: that count.
    """
    clock = Clock()

    def watch(step: int, *_: Any) -> None:
        if step == WARM_UP:
            clock.restart()
        elif step == WARM_UP + steps:
            clock.turn()
            found.update({part: value / steps for part, value in clock.seconds.items()})

    found: dict[str, float] = {}
    with clock.watching():
        train(recipe, watch=watch)
    if not found:
        raise WingsError(f"The run ended before {steps} steps were timed: give it more data.")
    return found


def shares_of(path: str, overrides: Sequence[str], steps: int) -> dict[str, Any]:
    """The measured parts of a recipe's step, with machine and versions."""
    settings = [
        f"steps={steps + WARM_UP}", "epochs=null", "workers=0", "save_every=null", "trackers=[]",
        # Evaluations are no part of a step, and a short run would have many.
        "evaluate.data=[]", "evaluate.text_after_image=0", "evaluate.answers=0",
        "evaluate.stop=false",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        settings.append(f"output={folder}/run")
        recipe = Recipe.from_yaml(find_recipe(path), [*overrides, *settings])
        seconds = measure_shares(recipe, steps)
    return {
        "recipe": Path(path).stem,
        "changes": [*overrides],
        "stage": recipe.stage,
        "batch_size": recipe.batch_size,
        "steps": steps,
        "machine": processor_name(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "seconds": dict(sorted(seconds.items(), key=lambda item: -item[1])),
    }


def table(result: dict[str, Any]) -> str:
    """The parts as a table, largest first."""
    whole = sum(result["seconds"].values())
    rows = [
        f"| {part} | {seconds * 1e3:,.0f} | {seconds / whole:.1%} |"
        for part, seconds in result["seconds"].items()
    ]
    head = ["| part of a step | ms | share |", "| --- | --- | --- |"]
    return "\n".join([*head, *rows, f"| together | {whole * 1e3:,.0f} | 100.0% |"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures a recipe; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m wings.train.step_shares", description="Time the parts of a training step."
    )
    parser.add_argument("recipe", help="a YAML file, or the name of a shipped recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--steps", type=int, default=20, help="that count, after two others")
    parser.add_argument("--result", type=Path, help="a JSON file for the figures")
    given = parser.parse_intermixed_args(arguments)

    def work() -> int:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise WingsError("One process is timed: run it with python, and not with torchrun.")
        if given.steps < 1:
            raise WingsError(f"--steps is {given.steps}; give at least 1.")
        result = shares_of(given.recipe, given.overrides, given.steps)
        print(table(result))
        if given.result is not None:
            given.result.write_text(json.dumps(result, indent=1) + "\n")
        return 0

    return run_command("wings.train.step_shares", work)


if __name__ == "__main__":
    raise SystemExit(main())
