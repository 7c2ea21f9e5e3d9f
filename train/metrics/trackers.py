"""Trackers: where the metrics of a run are sent, by the names that `Trainer` has for them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from wings.errors import WingsError, nearest
from wings.upstream.trackers import TRACKERS, EventFileCallback, installed_trackers

TENSORBOARD = "tensorboard"


class EventFiles(EventFileCallback):
    """TensorBoard's event files in `tensorboard/` of the run's folder.

    A run that goes on adds a file to those that are there, which tells TensorBoard to forget the
    steps that were logged after the checkpoint: every step is shown once.

    Args:
        recipe: kept beside the metrics, as text.
    """

    def __init__(self, recipe: str) -> None:
        super().__init__()
        self.recipe = recipe

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open a file at the step that a resumed run has reached."""
        if not state.is_world_process_zero:
            return
        # The arguments name a folder of their own where none was given.
        assert args.output_dir is not None
        folder = self.folder or Path(args.output_dir) / TENSORBOARD
        # Step 0 has metrics too: the losses on held-out data before anything was trained.
        next_step = state.global_step + 1 if state.global_step else 0
        events = self.open_events(str(folder), next_step)
        if not state.global_step:
            events.add_text("recipe", f"```yaml\n{self.recipe}```")


def validate_tracker_names(names: Iterable[str]) -> None:
    """Raise a `WingsError` for a name that `Trainer` does not know."""
    for name in names:
        if name not in TRACKERS:
            close = nearest(name, TRACKERS)
            known = ", ".join(sorted(TRACKERS))
            raise WingsError(f"trackers: no tracker is called {name!r}{close}; known: {known}.")


def chosen(names: list[str] | None) -> list[str]:
    """The names that a recipe means: its own, or TensorBoard if that is installed."""
    if names is not None:
        return names
    return [name for name in (TENSORBOARD,) if name in installed_trackers()]


def make_trackers(names: list[str] | None, recipe: str) -> list[TrainerCallback]:
    """One callback per tracker.

    Args:
        names: of the recipe; None for TensorBoard where it is installed.
        recipe: the recipe as text.

    Raises:
        WingsError: a tracker that was asked for is not installed or not set up.
    """
    callbacks: list[TrainerCallback] = []
    for name in chosen(names):
        try:
            if name == TENSORBOARD:
                callbacks.append(EventFiles(recipe))
            else:
                callbacks.append(TRACKERS[name]())
        # Each tracker complains in its own way about what it lacks.
        except Exception as error:
            why = " ".join(str(error).split())
            raise WingsError(
                f"trackers: {name} cannot be used ({why}): install it or remove it from the list."
            ) from error
    return callbacks
