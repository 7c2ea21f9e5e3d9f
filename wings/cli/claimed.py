"""The folder of a command that several processes may share."""

import contextlib
from collections.abc import Iterator

from wings.eval.processes import Processes
from wings.output_folder import OutputFolder


@contextlib.contextmanager
def claimed(folder: OutputFolder, processes: Processes, *names: str) -> Iterator[None]:
    """Holds a folder in the block; the first process locks it for all.

    Args:
        folder: the folder, validated by all processes before.
        processes: all of them call this together.
        names: what the command is about to write.

    Raises:
        WingsError: another process holds it, it is not the command's, or it cannot be written.
    """
    with contextlib.ExitStack() as held:
        if processes.is_first:
            held.enter_context(folder.locked())
            folder.clear()
            folder.record(*names)
        processes.wait()
        yield
