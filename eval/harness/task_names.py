"""Refuses names of tasks that no task file has, before anything large is imported."""

import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from wings.errors import WingsError, nearest

TASK_FILES = Path(__file__).parents[1] / "tasks"
# Files of the harness whose names have no ending hold parts that others include.
_ENDINGS = (".yaml", ".yml", ".py", "")
_NAMED = re.compile(r"^\s*(?:-\s+)?(?:task|group):\s*[\"']?([\w.-]+)", re.MULTILINE)


def validate_task_names(names: Sequence[str], folders: Sequence[Path] = ()) -> None:
    """Raises a `WingsError` for a name that is in no task file.

    Files are only searched as text, which takes two seconds. The harness itself parses all of them
    and takes ten; it alone tells if a name that occurs is a task.

    Args:
        names: tasks or groups, stock or shipped.
        folders: with further task files.
    """
    package = find_spec("lm_eval")
    if not names or package is None:
        return
    stock = [Path(place) / "tasks" for place in package.submodule_search_locations or ()]
    unknown, known = dict.fromkeys(names), set()
    for text in _texts([TASK_FILES, *folders, *stock]):
        unknown = {name: None for name in unknown if name not in text}
        if not unknown:
            return
        known.update(_NAMED.findall(text))
    raise unknown_task(next(iter(unknown)), known)


def unknown_task(name: str, known: Sequence[str] | set[str]) -> WingsError:
    """The error for a name that is no task."""
    return WingsError(
        f"--tasks {name} is no task of lm-evaluation-harness{nearest(name, known)}; name one, or "
        "add the folder of its file with --include-path."
    )


def _texts(folders: Sequence[Path]) -> Iterator[str]:
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix in _ENDINGS and path.is_file():
                yield path.read_text(encoding="utf-8", errors="replace")
