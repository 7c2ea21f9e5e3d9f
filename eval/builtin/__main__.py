"""`python -m wings.eval.builtin FOLDER` writes the items of every local task as JSON Lines."""

import sys
from pathlib import Path

from wings.errors import WingsError
from wings.eval.items import write_items

from .tasks import TASKS


def build(folder: Path) -> dict[str, int]:
    """Writes `FOLDER/TASK.jsonl` for every task, the same bytes every time; how many items each."""
    items = {name: make() for name, make in TASKS.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, of in items.items():
        write_items(folder / f"{name}.jsonl", of)
    return {name: len(of) for name, of in items.items()}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m wings.eval.builtin FOLDER")
    try:
        print(build(Path(sys.argv[1])))
    except WingsError as error:
        sys.exit(str(error))
