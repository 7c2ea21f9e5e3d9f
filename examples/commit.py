"""The commit of the code that makes a run."""

import subprocess
from pathlib import Path
from typing import Any

# Results are written while the runs go on, and are no code.
CODE = (":/", ":(top,exclude)eval/results")


def code_version() -> dict[str, Any]:
    """`commit` and `dirty` of the repository of this file; None where it is none."""
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", *CODE)
    return {"commit": commit, "dirty": None if changed is None else bool(changed)}


def _git(*arguments: str) -> str | None:
    """The output of a git command; None without git or a repository."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
