"""`python -m wings.eval.builtin FOLDER` writes the items of every built-in task as JSON Lines."""

import sys
from pathlib import Path

from wings.errors import WingsError
from wings.eval.items import write_items

from .tasks import TASKS


def build(folder: Path) -> dict[str, int]:
    """Writes `FOLDER/TASK.jsonl` for every task, deterministically; returns the item counts."""
    tasks = {name: make() for name, make in TASKS.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, items in tasks.items():
        write_items(folder / f"{name}.jsonl", items)
    return {name: len(items) for name, items in tasks.items()}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m wings.eval.builtin FOLDER")
    try:
        print(build(Path(sys.argv[1])))
    except WingsError as error:
        sys.exit(str(error))
