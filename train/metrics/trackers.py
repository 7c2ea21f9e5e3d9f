"""Trackers that receive the metrics of a run, by their names in `Trainer`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from wings.errors import WingsError, nearest
from wings.upstream.trackers import TRACKERS, EventFileCallback, installed_trackers

TENSORBOARD = "tensorboard"


class EventFiles(EventFileCallback):
    """TensorBoard event files in `tensorboard/` of the run's folder.

    A resumed run adds a file that makes TensorBoard drop the steps logged after the checkpoint, so
    that every step appears once.

    Args:
        recipe: stored with the metrics as text.
    """

    def __init__(self, recipe: str) -> None:
        super().__init__()
        self.recipe = recipe
        self.events: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open a file at the current step."""
        if not state.is_world_process_zero:
            return
        # `TrainingArguments` always has a folder.
        assert args.output_dir is not None
        folder = self.folder or Path(args.output_dir) / TENSORBOARD
        # Step 0 has metrics too: the losses on held-out data before training.
        next_step = state.global_step + 1 if state.global_step else 0
        self.events = self.open_events(str(folder), next_step)
        if not state.global_step:
            self.events.add_text("recipe", f"```yaml\n{self.recipe}```")

    def add_text(self, name: str, text: str, step: int) -> None:
        """Shows a text of a step, if a file is open."""
        if self.is_open:
            self.events.add_text(name, text, step)

    def add_image(self, name: str, image: np.ndarray) -> None:
        """Shows an image, `[height, width, 3]` uint8, if a file is open."""
        if self.is_open:
            self.events.add_image(name, image, dataformats="HWC")


def validate_tracker_names(names: Iterable[str]) -> None:
    """Raise a `WingsError` for a name that `Trainer` does not know."""
    for name in names:
        if name not in TRACKERS:
            close = nearest(name, TRACKERS)
            known = ", ".join(sorted(TRACKERS))
            raise WingsError(f"trackers: no tracker is named {name!r}{close}; known: {known}.")


def make_trackers(names: list[str] | None, recipe: str) -> list[TrainerCallback]:
    """One callback per tracker.

    Args:
        names: names from the recipe; None for TensorBoard if installed.
        recipe: the recipe as text.

    Raises:
        WingsError: a tracker is not installed or not set up.
    """
    if names is None:
        names = [name for name in (TENSORBOARD,) if name in installed_trackers()]
    callbacks: list[TrainerCallback] = []
    for name in names:
        try:
            if name == TENSORBOARD:
                callbacks.append(EventFiles(recipe))
            else:
                callbacks.append(TRACKERS[name]())
        # Error types depend on the tracker.
        except Exception as error:
            why = " ".join(str(error).split())
            raise WingsError(
                f"trackers: {name} cannot be used ({why}); install it or remove it from the list."
            ) from error
    return callbacks
