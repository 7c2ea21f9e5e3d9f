"""Runs that are killed or meet a limit: in this process, or in processes of their own."""

import contextlib
import multiprocessing
import os
import resource
import signal
import sys
from pathlib import Path

import pytest
from transformers import TrainerCallback

from wings.errors import WingsError
from wings.train import run
from wings.train.run import train

# What Python tells of before it does it: kills come between two of these.
CALLS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir")


class Killed(Exception):
    """Ends a run in this process as a kill would."""


class Killer(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Killed


@contextlib.contextmanager
def killed_at(step):
    """Expects a run in the block, and ends it after a step, before its checkpoint."""
    original = run.WingsTrainer.__init__

    def init(self, **kwargs):
        original(self, **{**kwargs, "callbacks": [*kwargs["callbacks"], Killer(step)]})

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(run.WingsTrainer, "__init__", init)
        yield


def calls_of_runs(recipes, number, log):
    """Trains one after another; dies before call `number` to an output, or notes all in `log`."""
    seen, outputs = [], tuple(recipe.output for recipe in recipes)

    def hook(event, arguments):
        if event not in CALLS or not str(arguments[0]).startswith(outputs):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        seen.append(f"{event} {arguments[0]}")
        if len(seen) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    for recipe in recipes:
        train(recipe)
    calls = list(seen)
    Path(log).write_text("\n".join(calls))


def run_into_a_limit(recipe, size, deadly, said):
    """Trains; after step 3, a file that grows over `size` kills the process or is an error."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL if deadly else signal.SIG_IGN)

    def watch(step, steps, metrics):
        if step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    try:
        train(recipe, watch=watch)
    except WingsError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        Path(said).write_text(str(error))


def lose_workers(recipe, said):
    def kill(step, steps, metrics):
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)

    try:
        train(recipe, watch=kill)
    except WingsError as error:
        Path(said).write_text(str(error))
        # Otherwise torch raises its error wherever the process is.
        os._exit(0)
