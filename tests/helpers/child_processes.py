"""A fixture that finds data workers which do not end by themselves."""

import gc
from multiprocessing import active_children
from multiprocessing.process import BaseProcess

import pytest


@pytest.fixture
def children_end(monkeypatch):
    """Fails if a child process outlives the test's calls, or if it had to be terminated.

    Garbage is not collected meanwhile, because the end of a process must not depend on when it is.
    """
    before, terminated, terminate = set(active_children()), [], BaseProcess.terminate

    def record(process):
        terminated.append(process)
        terminate(process)

    monkeypatch.setattr(BaseProcess, "terminate", record)
    gc.disable()
    try:
        yield
        left = set(active_children()) - before
    finally:
        gc.enable()
    assert (left, terminated) == (set(), [])
