"""`python -m wings.eval.builtin FOLDER` writes the items of every built-in task as JSON Lines."""

import sys
from pathlib import Path

from wings.endings import run_command
from wings.eval.items import write_items
from wings.output_folder import OutputFolder

from .tasks import TASKS


def build(folder: Path) -> dict[str, int]:
    """Writes `FOLDER/TASK.jsonl` for every task, deterministically; returns the item counts."""
    tasks = {name: make() for name, make in TASKS.items()}
    owned = OutputFolder(folder, "wings.eval.builtin", "FOLDER")
    with owned.locked():
        owned.record(*(f"{name}.jsonl" for name in tasks))
        for name, items in tasks.items():
            write_items(owned.path / f"{name}.jsonl", items)
    return {name: len(items) for name, items in tasks.items()}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m wings.eval.builtin FOLDER")
    name = "wings.eval.builtin"
    sys.exit(run_command(name, lambda: print(build(Path(sys.argv[1])))))
