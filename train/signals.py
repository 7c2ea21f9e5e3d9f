"""Handles SIGTERM and SIGUSR1: all processes save a checkpoint after the same step and exit."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from wings.errors import WingsError

# "Try again later" (75): not finished; the same command continues.
NOT_FINISHED = os.EX_TEMPFAIL
# By name, because not every system has both.
SIGNALS = [number for number in signal.Signals if number.name in ("SIGTERM", "SIGUSR1")]


class DistributedStop(WingsError):
    """Raised by all processes after the same step; only the first one needs to print it."""


class Preempted(DistributedStop):
    """A signal stopped the run, and it left a whole checkpoint."""


class SignalHandler(TrainerCallback):
    """On SIGTERM or SIGUSR1: save a checkpoint after the current step and end the training.

    `Trainer`'s own `enable_jit_checkpoint` saves only in the process that got the signal, seconds
    later. Processes that share a model must save together. So the trainer reduces `received` over
    all processes once a step and sets `agreed`; a signal may reach any of them, more than once.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.agreed = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Installs the handlers inside the block; Python allows that in the main thread only."""
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
        """Name of the signal."""
        return self.received.name if self.received else "a signal to another process"

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save and end if all processes agreed; after the last step the run finishes anyway."""
        if self.agreed and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)


def init_worker(init: Callable[[int], None] | None, worker: int) -> None:
    """Start a data worker that ignores signals except those of its parent process.

    A cluster signals every process; a worker that exits would make the last step fail.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=_exit_with, args=(os.getppid(),), daemon=True).start()
    if init is not None:
        init(worker)


def _exit_with(parent: int) -> None:
    while signal.sigwaitinfo(SIGNALS).si_pid != parent:
        pass
    os._exit(0)
