"""Installed releases: what results record, and a warning of those that the tests never ran on."""

import contextlib
import importlib.metadata
import subprocess
import warnings
from collections.abc import Iterable
from pathlib import Path

from wings import __version__

from .bounds import BOUNDS

OWN = "wings-lorra"


def recorded_versions() -> dict[str, str]:
    """Releases that a result is recorded with, and this package's commit if it is a checkout.

    The commit ends in `-dirty` if tracked files were changed.
    """
    versions = {OWN: __version__}
    root = Path(__file__).parents[2]
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty"]
    if (root / ".git").exists():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(
                [*command, "--exclude=*"], capture_output=True, text=True, timeout=20, check=True
            )
            versions["commit"] = done.stdout.strip()
    return versions | releases_of(("torch", "transformers"))


def releases_of(libraries: Iterable[str]) -> dict[str, str]:
    """The installed release of each library that is installed."""
    releases = {}
    for library in libraries:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            releases[library] = importlib.metadata.version(library)
    return releases


def untested_releases() -> list[str]:
    """Each library outside its bounds, as `transformers 5.30.0 (tested: >=5.17,<5.25)`."""
    found = []
    for library, (oldest, first_untested) in BOUNDS.items():
        try:
            version = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
        if not _numbers(oldest) <= _numbers(version) < _numbers(first_untested):
            found.append(f"{library} {version} (tested: >={oldest},<{first_untested})")
    return found


def warn_of(releases: list[str]) -> None:
    """Warns once of releases that the tests never ran on."""
    warnings.warn(
        f"Wings was not tested with {', '.join(releases)}. A quick check of cached generation "
        "passed; for more, run the tests or install a tested release.",
        stacklevel=2,
    )


def _numbers(version: str) -> tuple[int, ...]:
    """The release as numbers: `5.25.0.dev0+cpu` is (5, 25, 0)."""
    numbers = []
    for part in version.partition("+")[0].split("."):
        digits = part[: next((n for n, c in enumerate(part) if not c.isdigit()), len(part))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
