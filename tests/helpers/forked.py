"""Python programs in processes forked off one that has imported torch and Wings already.

Importing them takes a process many times as long as a short run does. A process that has trained
nothing is forked: autograd's threads do not survive a fork.
"""

import atexit
import gc
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
import types
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch

import wings

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "open_clip", "wings.train.run", "wings.eval.evaluation"])


def start(target, *arguments):
    """A process forked off the server, which is started by the first call."""
    with pytest.MonkeyPatch.context() as patch:
        # The server imports the Wings that this process has, whatever its folder is by now.
        paths = [str(Path(wings.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        forkserver.ensure_running()
    process = CONTEXT.Process(target=target, args=arguments)
    process.start()
    return process


class Program:
    """`python WORDS`, with what tests need of `subprocess.Popen`.

    Args:
        words: what would follow `python`: a file, or `-m` and a module, or `-c` and code.
        cwd: its folder, this process's by default.
        environment: variables that it has besides those of this process.
    """

    def __init__(self, *words, cwd=None, **environment):
        ends = [CONTEXT.Pipe(duplex=False) for _ in range(2)]
        self._process = start(
            _run,
            [*map(str, words)],
            str(cwd or Path.cwd()),
            {**os.environ, **environment},
            [writer for _, writer in ends],
            multiprocessing.get_start_method(),
            wings.__file__,
        )
        self.pid = self._process.pid
        for _, writer in ends:
            writer.close()
        self.stdout, self.stderr = (os.fdopen(os.dup(reader.fileno())) for reader, _ in ends)

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("the program", timeout)
        return self.returncode

    def communicate(self, timeout=None):
        """What it prints to its end; it is killed after `timeout` seconds."""
        said = {}

        def read(stream):
            said[stream] = stream.read()

        streams = (self.stdout, self.stderr)
        readers = [threading.Thread(target=read, args=(stream,)) for stream in streams]
        for reader in readers:
            reader.start()
        try:
            self.wait(timeout)
        finally:
            self.kill()
            for reader in readers:
                reader.join()
        return tuple(said[stream] for stream in streams)

    def send_signal(self, number):
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def run_ranks(processes, *words, cwd, timeout=240):
    """A program in several processes as `torchrun --standalone` starts them, on the CPU.

    Returns (exit code, stdout, stderr), those of all processes one after another. Where one fails,
    the others are ended.
    """
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    world = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1"}
    world |= {"MASTER_PORT": store.port, "TORCHELASTIC_USE_AGENT_STORE": True}
    world |= {"TORCHELASTIC_RESTART_COUNT": 0, "CUDA_VISIBLE_DEVICES": ""}
    ranks = [
        Program(
            *words,
            cwd=cwd,
            **{name: str(value) for name, value in world.items()},
            RANK=str(rank),
            LOCAL_RANK=str(rank),
        )
        for rank in range(processes)
    ]
    said = [None] * processes

    def follow(rank):
        said[rank] = ranks[rank].communicate(timeout)
        if ranks[rank].returncode != 0:
            for other in ranks:
                other.send_signal(signal.SIGTERM)

    followers = [threading.Thread(target=follow, args=(rank,)) for rank in range(processes)]
    for follower in followers:
        follower.start()
    for follower in followers:
        follower.join()
    code = int(any(rank.returncode != 0 for rank in ranks))
    return code, *("".join(texts) for texts in zip(*said, strict=True))


def in_a_child(work, *arguments):
    """Runs `work`, a function of a helper, in a process of its own; its exit code."""
    child = start(_quietly, work, *arguments)
    child.join(200)
    assert child.exitcode is not None, "the child did not end"
    return child.exitcode


def _quietly(work, *arguments):
    _leave_imports()
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    work(*arguments)


def _leave_imports():
    """Keeps collections, one of which ends each training, from visiting all that was imported."""
    gc.freeze()


def _run(words, folder, environment, writers, start_method, place):
    """The child: as the interpreter would begin."""
    _leave_imports()
    assert wings.__file__ == place, f"{wings.__file__} was imported beforehand, not {place}"
    # Data workers start as in any other process, not as this one did.
    multiprocessing.set_start_method(start_method, force=True)
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    for number, writer in enumerate(writers, 1):
        os.dup2(writer.fileno(), number)
        writer.close()
    # A line is written whole, so that those of two processes do not mix.
    sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, closefd=False) for number in (1, 2))
    kind = words[0]
    sys.argv = {"-m": words[1:], "-c": ["-c", *words[2:]]}.get(kind, words)
    try:
        if kind == "-m":
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif kind == "-c":
            sys.modules["__main__"] = main = types.ModuleType("__main__")
            exec(words[1], vars(main))
        else:
            runpy.run_path(words[0], run_name="__main__")
    finally:
        # As at the end of an interpreter: data workers end here.
        atexit._run_exitfuncs()
