"""Python programs in processes that have imported torch, and neither transformers nor Wings.

Importing torch takes half the time of a program that loads a model. Here one process imports it,
and is forked for each program. `forked.py` is for programs that need no order of imports.
"""

import atexit
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

# With what transformers and accelerate import of torch and scipy, and a tower of torchvision.
LIBRARIES = (
    "torch", "torch._inductor.compile_fx", "torch.utils.tensorboard", "torchvision",
    "scipy.optimize", "scipy.stats",
)  # fmt: skip


def run(words, environment=None, cwd=None, stdin="", timeout=300):
    """Runs `python WORDS`; returns it with its output as text, as `subprocess.run` does.

    Args:
        words: `-c` and code, or `-m` and a module, and their arguments.
        environment: its environment variables, by default those of this process.
        cwd: its folder, by default that of this process.
        stdin: the text that it reads.
        timeout: seconds after which it is killed; its exit code is negative then.
    """
    words = [*map(str, words)]
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder, name)) for name in ("stdin", "stdout", "stderr")]
        Path(files[0]).write_text(stdin)
        job = [words, dict(environment or os.environ), str(cwd or Path.cwd()), files, timeout]
        server = _server()
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(words, code, *(Path(f).read_text() for f in files[1:]))


@cache
def _server():
    server = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(server.communicate)
    return server


def _next_job():
    """Forks for each line of stdin. The children return its job; this process ends with stdin."""
    for line in sys.stdin:
        job = json.loads(line)
        if not (child := os.fork()):
            return job
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    raise SystemExit


if __name__ == "__main__":
    import gc
    import importlib
    import runpy
    import signal
    import types

    for library in LIBRARIES:
        # scipy and tensorboard are no requirements of Wings.
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    # A collection in a child would copy the pages of all that was imported.
    gc.freeze()
    assert not {"transformers", "huggingface_hub", "wings"} & set(sys.modules)
    words, environment, folder, files, timeout = _next_job()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    # As Python makes it: the folder of the program, which is this one, then PYTHONPATH.
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = ["", *paths, *(path for path in sys.path[1:] if path not in paths)]
    for number, file in enumerate(files):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), number)
    sys.stdin = os.fdopen(0)
    signal.alarm(timeout)
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = ["-c", *words[2:]]
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(words[1], vars(main))
