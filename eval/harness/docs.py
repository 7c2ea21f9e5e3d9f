"""The local tasks as lm-evaluation-harness reads them: their documents, and how one is scored.

The task files in `tasks/` name these functions. That file being read, `wings` is a model's name to
the harness, so a task file given by its path is enough for `lm_eval --model wings`.
"""

import json
from typing import Any

import datasets

from wings.eval.builtin.tasks import TASKS
from wings.eval.items import Item
from wings.eval.scoring.score import score, share_passed

from .model import NAME, register

register()
MODEL = NAME


def arithmetic(**options: Any) -> dict[str, datasets.Dataset]:
    """Documents of `arithmetic`; the harness hands its metadata over, which is not needed."""
    return documents("arithmetic")


def capitals(**options: Any) -> dict[str, datasets.Dataset]:
    """Documents of `capitals`."""
    return documents("capitals")


def elements(**options: Any) -> dict[str, datasets.Dataset]:
    """Documents of `elements`."""
    return documents("elements")


def instructions(**options: Any) -> dict[str, datasets.Dataset]:
    """Documents of `instructions`."""
    return documents("instructions")


def documents(task: str) -> dict[str, datasets.Dataset]:
    """One split `test` of `kind`, `question`, `answer`, `choices`, `gold` and `checks` (as JSON,
    for checks have different fields).
    """
    return {"test": datasets.Dataset.from_list([document(item) for item in TASKS[task]()])}


def document(item: Item) -> dict[str, Any]:
    """An item of one turn as a document."""
    return {
        "kind": item.kind,
        "question": item.messages[-1]["content"],
        "answer": item.answer,
        "choices": list(item.choices),
        "gold": item.choices.index(item.answer) if item.choices else -1,
        "checks": json.dumps(item.checks),
    }


def checked(doc: dict[str, Any], said: list[str]) -> dict[str, float]:
    """`acc`: whether one answer passes all checks; `checks`: the share that it passes."""
    item = Item(doc["kind"], (), doc["answer"], "checks", checks=tuple(json.loads(doc["checks"])))
    return {"acc": score(item, said[0]), "checks": share_passed(item, said[0])}
