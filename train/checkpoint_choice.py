"""Chooses the checkpoint that a run resumes from: the newest whole one."""

import sys
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import gather_object

from .run_folder import RunFolder
from .signals import DistributedStop


def newest_whole_checkpoint(folder: RunFolder) -> Path | None:
    """The newest checkpoint whose files all are what the run wrote; None for a fresh start.

    All processes call this together and share the reading. Newer ones that are not whole are named
    on stderr and renamed to `damaged-checkpoint-N`.

    Raises:
        DistributedStop: there are checkpoints, but none is whole.
    """
    state = PartialState()
    share = state.process_index, state.num_processes
    names = gather_object([[path.name for path in folder.recorded_checkpoints()]])[0]
    damaged: dict[Path, str] = {}
    chosen = None
    for path in (folder.path / name for name in reversed(names)):
        problems = [one for one in gather_object([folder.problem(path, share)]) if one]
        if not problems:
            chosen = path
            break
        damaged[path] = problems[0]
    if not damaged:
        return chosen
    listed = "; ".join(f"{path.name}: {problem}" for path, problem in damaged.items())
    if chosen is None:
        raise DistributedStop(
            f"output: no checkpoint in {folder.path} is whole ({listed}); restore the files, or"
            " delete the folder to start again."
        )
    if state.is_main_process:
        for path in damaged:
            folder.set_aside(path)
        print(
            f"output: not whole and renamed to damaged-...: {listed}; the run resumes from"
            f" {chosen}.",
            file=sys.stderr,
            flush=True,
        )
    state.wait_for_everyone()
    return chosen
