"""The machine and package versions of a measurement, for reports."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from wings import __version__
from wings.extras import NAME

PACKAGES = ("torch", "transformers", "open_clip_torch", "tokenizers", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python, Wings and the packages that affect results."""
    known = {"python": platform.python_version(), NAME: __version__}
    return known | {name: version(name) for name in PACKAGES}


def machine() -> dict[str, Any]:
    """Processor and number of cores."""
    return {"processor": processor_name(), "cores": os.cpu_count()}


def processor_name() -> str:
    """The processor's name from /proc/cpuinfo, else from Python's `platform`."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
