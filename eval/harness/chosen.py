"""Which tasks of lm-evaluation-harness are asked: found and read before any weights."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wings.errors import WingsError, nearest
from wings.upstream.harness import HARNESS_VERSION, LOGGER, TaskManager, load_tasks, task_source

from .paper import TASKS


@dataclass(frozen=True)
class ChosenTasks:
    """Tasks by the names that were given.

    Attributes:
        manager: knows where they are.
        leaves: the tasks of each name: itself, or those of a group.
    """

    manager: TaskManager
    leaves: dict[str, tuple[str, ...]]

    def identity(self, leaf: str) -> list[str]:
        """What a result of the task is good for: the harness's version and the task's own file."""
        path, config = task_source(self.manager, leaf)
        own = path.read_text(encoding="utf-8") if path is not None and path.is_file() else ""
        return [HARNESS_VERSION, leaf, own, str(config)]


def choose_tasks(names: Sequence[str], folders: Sequence[Path] = ()) -> ChosenTasks:
    """The tasks of these names, each read once so that what is wrong with it is told at once.

    Args:
        names: of tasks or groups, the stock ones and those that ship.
        folders: with task files that go before both.

    Raises:
        WingsError: a name that nothing has, a task whose data cannot be had, or one that runs what
            a model wrote.
    """
    logging.getLogger(LOGGER).setLevel(logging.ERROR)
    for folder in folders:
        if not folder.is_dir():
            raise WingsError(f"--include-path {folder} is no folder; name one with task files")
    manager = TaskManager(include_path=[str(folder) for folder in (TASKS, *folders)])
    leaves = {}
    for name in names:
        if name not in manager.all_tasks:
            raise WingsError(
                f"--tasks {name} is no task of lm-evaluation-harness"
                f"{nearest(name, manager.all_tasks)}; name one, or a file's folder with "
                "--include-path"
            )
        loaded = _loaded(name, manager)
        for leaf, task in loaded.items():
            if task.config.unsafe_code:
                raise WingsError(
                    f"--tasks {name}: {leaf} runs programs that a model wrote; ask it with "
                    "python -m wings.eval.harness --confirm_run_unsafe_code"
                )
        leaves[name] = tuple(loaded)
    return ChosenTasks(manager, leaves)


def _loaded(name: str, manager: TaskManager) -> dict[str, Any]:
    try:
        return load_tasks(manager, name)
    # Data sets are loaded here, each in its own way.
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise WingsError(
            f"--tasks {name} cannot be had ({type(error).__name__}: {reason}); give its data as "
            "files (python -m wings.eval.harness.offline) and their folder as --include-path"
        ) from error
