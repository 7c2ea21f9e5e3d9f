"""Halt: a signal asks a run to stop, and every process stops after the same step."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from wings.errors import WingsError

# "Try again later" (75): not finished, and the same command goes on.
NOT_FINISHED = os.EX_TEMPFAIL
# By name, as not every system has both.
SIGNALS = [number for number in signal.Signals if number.name in ("SIGTERM", "SIGUSR1")]


class Agreed(WingsError):
    """What all processes raise after the same step; the first one alone needs to say it."""


class Stopped(Agreed):
    """The run was asked to stop and left a whole checkpoint."""


class Halt(TrainerCallback):
    """Takes SIGTERM and SIGUSR1 for a wish to stop, saves and ends the training.

    `Trainer`'s own `enable_jit_checkpoint` saves in the process that got the signal, seconds later
    and alone; processes that share a model must do it together. So the loop asks all of them once a
    step (`agreed`), and a signal may come to any of them, once or several times.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.agreed = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Takes the signals; outside the main thread Python allows no handlers, and none is set."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @property
    def cause(self) -> str:
        """Who asked."""
        return self.received.name if self.received else "a signal to another process"

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save and end where all processes agreed to; after the last step the run just finishes."""
        if self.agreed and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)


def begin_worker(begin: Callable[[int], None] | None, worker: int) -> None:
    """Start a data worker that ends when the process it works for says so, and for nobody else.

    A cluster signals every process; workers that died of it would take the last step with them.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=_obey, args=(os.getppid(),), daemon=True).start()
    if begin is not None:
        begin(worker)


def _obey(master: int) -> None:
    while signal.sigwaitinfo(SIGNALS).si_pid != master:
        pass
    os._exit(0)
