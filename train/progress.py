"""Progress of a run: a bar in a terminal, lines elsewhere, or whatever the caller draws."""

import sys
from collections.abc import Callable
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

# Step, number of steps, and the newest figures (`loss`, `grad_norm`, `rate/...`).
Watch = Callable[[int, int, dict[str, float]], None]


class Progress(TrainerCallback):
    """Shows where a run is, on the first process only.

    Args:
        title: what stands before the bar.
        watch: called after every step instead of drawing anything.
    """

    def __init__(self, title: str, watch: Watch | None = None) -> None:
        self.title, self.watch = title, watch
        self.figures: dict[str, float] = {}
        self.bar: tqdm | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar at the step that a resumed run has reached."""
        if state.is_world_process_zero and self.watch is None and sys.stderr.isatty():
            self.bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                desc=self.title,
                dynamic_ncols=True,
                leave=True,
                bar_format="{desc:<9}{percentage:3.0f}% {bar:24} {n_fmt}/{total_fmt}"
                "  {elapsed}<{remaining}{postfix}",
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move on by one step; the last one is always logged."""
        if self.bar is not None:
            self.bar.update(1)
        control.should_log |= state.global_step >= state.max_steps
        if not control.should_log:
            self._tell(state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Take in new figures."""
        if logs is None or "loss" not in logs or not state.is_world_process_zero:
            return
        self.figures = dict(logs)
        self._tell(state)
        if self.bar is not None:
            self.bar.set_postfix_str(self._line())
        elif self.watch is None:
            print(f"{self.title} {state.global_step}/{state.max_steps}  {self._line()}", flush=True)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()

    def _tell(self, state: TrainerState) -> None:
        if self.watch is not None and state.is_world_process_zero:
            self.watch(state.global_step, state.max_steps, self.figures)

    def _line(self) -> str:
        rates = [value for name, value in self.figures.items() if name.startswith("rate/")]
        line = f"loss {self.figures['loss']:.4f}  rate {max(rates):.1e}"
        if "grad_norm" in self.figures:
            line += f"  gradient {self.figures['grad_norm']:.2f}"
        if self.figures.get("skipped"):
            line += f"  skipped {self.figures['skipped']:.0f}"
        return line
