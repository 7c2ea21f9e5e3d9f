"""Tasks of lm-evaluation-harness: the shipped ones, and those chosen for an evaluation.

The task files in `eval/tasks` refer to functions of this module. Importing it registers the model
`wings`, so a task file that is passed by its path is enough for `lm_eval --model wings`.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets

from wings.errors import WingsError
from wings.eval.builtin.tasks import TASKS
from wings.eval.items import Item
from wings.eval.scoring.score import score, share_passed
from wings.upstream.harness import HARNESS_VERSION, LOGGER, TaskManager, load_tasks, task_source

from .model import NAME, register
from .task_names import TASK_FILES, unknown_task

# Names in the paper -> tasks of the harness; group `wings_paper`. IFEval and MATH are additions
# that show forgetting which MMLU hides. WSC is the SuperGLUE version. RACE-M has no stock task.
PAPER = {
    "MMLU": "mmlu",
    "CMMLU": "cmmlu",
    "ARC-E": "arc_easy",
    "ARC-C": "arc_challenge",
    "RACE-H": "race",
    "HellaSwag": "hellaswag",
    "Winogrande": "winogrande",
    "WSC": "wsc",
    "PIQA": "piqa",
    "OpenbookQA": "openbookqa",
    "SIQA": "social_iqa",
    "GSM8K": "gsm8k",
    "MBPP": "mbpp",
    "IFEval": "ifeval",
    "MATH": "hendrycks_math",
}

register()
MODEL = NAME  # for task files


@dataclass(frozen=True)
class ChosenTasks:
    """The tasks of an evaluation.

    Attributes:
        manager: the harness's index of tasks.
        leaves: the tasks of each requested name: itself, or those of a group.
    """

    manager: TaskManager
    leaves: dict[str, tuple[str, ...]]

    def identity(self, leaf: str) -> list[str]:
        """The parts of a cache key that describe a task: harness version, name, file and config."""
        path, config = task_source(self.manager, leaf)
        source = path.read_text(encoding="utf-8") if path is not None and path.is_file() else ""
        return [HARNESS_VERSION, leaf, source, str(config)]


def choose_tasks(names: Sequence[str], folders: Sequence[Path] = ()) -> ChosenTasks:
    """Finds tasks by name and loads each once, so that errors appear before any model is loaded.

    Args:
        names: tasks or groups, stock or shipped.
        folders: with task files that take precedence over both.

    Raises:
        WingsError: an unknown name, a task whose data cannot be loaded, or one that executes code
            written by a model.
    """
    logging.getLogger(LOGGER).setLevel(logging.ERROR)
    for folder in folders:
        if not folder.is_dir():
            raise WingsError(f"--include-path {folder} is no folder; name one with task files.")
    manager = TaskManager(include_path=[str(folder) for folder in (TASK_FILES, *folders)])
    leaves = {}
    for name in names:
        if name not in manager.all_tasks:
            raise unknown_task(name, manager.all_tasks)
        loaded = _load(name, manager)
        for leaf, task in loaded.items():
            if task.config.unsafe_code:
                raise WingsError(
                    f"--tasks {name}: {leaf} executes code that a model wrote; run it with "
                    "python -m wings.eval.harness --confirm_run_unsafe_code."
                )
        leaves[name] = tuple(loaded)
    return ChosenTasks(manager, leaves)


def _load(name: str, manager: TaskManager) -> dict[str, Any]:
    try:
        return load_tasks(manager, name)
    # Tasks load their data in their own ways, so any exception is possible.
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise WingsError(
            f"--tasks {name} cannot be loaded ({type(error).__name__}: {reason}); provide its data "
            "as files (python -m wings.eval.harness.offline) and pass their folder as "
            "--include-path."
        ) from error


def documents(task: str, **metadata: Any) -> dict[str, datasets.Dataset]:
    """The split `test` of a built-in task; the harness passes its metadata, which is not needed."""
    return {"test": datasets.Dataset.from_list([document(item) for item in TASKS[task]()])}


arithmetic: Callable[..., Any] = partial(documents, "arithmetic")
capitals: Callable[..., Any] = partial(documents, "capitals")
elements: Callable[..., Any] = partial(documents, "elements")
instructions: Callable[..., Any] = partial(documents, "instructions")


def document(item: Item) -> dict[str, Any]:
    """An item of one turn as a document; `checks` is JSON because checks have different fields."""
    return {
        "kind": item.kind,
        "question": item.messages[-1]["content"],
        "answer": item.answer,
        "choices": list(item.choices),
        "gold": item.choices.index(item.answer) if item.choices else -1,
        "checks": json.dumps(item.checks),
    }


def checked(doc: dict[str, Any], predictions: list[str]) -> dict[str, float]:
    """`acc`: 1 if the answer passes all checks; `checks`: the share that it passes."""
    item = Item(doc["kind"], (), doc["answer"], "checks", checks=tuple(json.loads(doc["checks"])))
    return {"acc": score(item, predictions[0]), "checks": share_passed(item, predictions[0])}
