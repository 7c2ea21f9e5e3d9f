"""Shows the progress of a run: a bar in a terminal, lines elsewhere, or a callback."""

import shutil
import sys
from collections.abc import Callable
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .evaluate import PREFIX, renamed

# Called with step, steps and latest metrics (`loss`, `grad_norm`, `rate/...`, `eval/...`).
Watch = Callable[[int, int, dict[str, float]], None]

# Metrics of a progress line, the most important first.
SHOWN = (
    ("loss", "loss ", ".4f"),
    ("kl_to_base", "KL to base ", ".4f"),
    ("tokens_per_second", "tokens/s ", ",.0f"),
    ("skipped", "skipped ", ".0f"),
    ("rate", "rate ", ".1e"),
    ("grad_norm", "gradient ", ".2f"),
    ("mfu", "MFU ", ".0%"),
    ("memory_gib", "GiB ", ".1f"),
    ("padding", "padding ", ".0%"),
    ("image_tokens", "images ", ".0%"),
    ("audio_tokens", "sounds ", ".0%"),
)
BAR_WIDTH = 12
COLUMNS = 80


class Progress(TrainerCallback):
    """Shows progress on the first process.

    Args:
        title: text before the bar.
        watch: called after every step instead of printing.
    """

    def __init__(self, title: str, watch: Watch | None = None) -> None:
        self.title, self.watch = title, watch
        self.metrics: dict[str, float] = {}
        self.watched = 0
        self.is_warming_up = False
        self.bar: tqdm | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar at the current step."""
        if state.is_world_process_zero and self.watch is None and sys.stderr.isatty():
            self.bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                desc=self.title,
                dynamic_ncols=True,
                leave=True,
                bar_format=f"{{desc:<9}}{{percentage:3.0f}}% {{bar:{BAR_WIDTH}}}"
                " {n_fmt}/{total_fmt}  {elapsed}<{remaining}{postfix}",
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Advance by one step; the last one is always logged."""
        if self.bar is not None:
            self.bar.update(1)
        control.should_log |= state.global_step >= state.max_steps
        if not control.should_log:
            self._call_watch(state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the metrics of a step or of an evaluation."""
        if logs is None or not state.is_world_process_zero:
            return
        evaluated = any(name.startswith(PREFIX) for name in logs)
        if not evaluated and "loss" not in logs:
            return
        self.metrics |= renamed(logs)
        self.is_warming_up = state.global_step <= args.get_warmup_steps(state.max_steps)
        if not evaluated:
            self._call_watch(state)
        if self.bar is not None:
            # Held-out losses stay on the screen, one line per evaluation.
            if evaluated:
                self.bar.write(self._evaluation(self._place(state)), file=sys.stderr)
            else:
                taken = BAR_WIDTH + 35 + 2 * len(str(state.max_steps))
                columns = shutil.get_terminal_size().columns
                self.bar.set_postfix_str(self._line(columns - taken))
        elif self.watch is None:
            place = self._place(state)
            print(self._evaluation(place) if evaluated else place + self._line(), flush=True)

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()

    def _call_watch(self, state: TrainerState) -> None:
        if (
            self.watch is None
            or not state.is_world_process_zero
            or self.watched == state.global_step
        ):
            return
        self.watched = state.global_step
        self.watch(state.global_step, state.max_steps, self.metrics)

    def _place(self, state: TrainerState) -> str:
        return f"{self.title} {state.global_step}/{state.max_steps}  "

    def _evaluation(self, place: str) -> str:
        """Loss on each held-out set, its change since the start, and the KL from the LLM.

        Sets that do not fit into 80 columns are on lines of their own.
        """
        names = [
            name.removesuffix("/loss")
            for name in self.metrics
            if name.startswith("eval/") and name.endswith("/loss")
        ]
        lines = [f"{place}held out:"]
        indent = " " * len(lines[0])
        for part in map(self._held_out, names):
            if len(lines[-1]) + len(part) + 2 > COLUMNS and lines[-1] != f"{place}held out:":
                lines.append(indent)
            lines[-1] += f"{'' if lines[-1].endswith(':') else ' '} {part}"
        return "\n".join(lines)

    def _held_out(self, name: str) -> str:
        loss, rise = self.metrics[f"{name}/loss"], self.metrics[f"{name}/rise"]
        kl = self.metrics.get(f"{name}/kl")
        words = f", KL {kl:.4f}" if kl is not None else ""
        return f"{name.removeprefix('eval/').replace('_', ' ')} {loss:.4f} ({rise:+.4f}{words})"

    def _line(self, room: int = 1000) -> str:
        """The most important metrics, as many as fit; trackers get all."""
        metrics = dict(self.metrics)
        metrics["rate"] = max(rate for name, rate in metrics.items() if name.startswith("rate/"))
        if not metrics["skipped"]:
            del metrics["skipped"]
        parts = [
            # Otherwise the first rate, which is 0, looks like a mistake.
            f"{word}{metrics[name]:{form}}{' (warmup)' * (self.is_warming_up and name == 'rate')}"
            for name, word, form in SHOWN
            if name in metrics
        ]
        while len("  ".join(parts)) > room and len(parts) > 1:
            parts.pop()
        return "  ".join(parts)
