"""Where a result was measured: processor, cores, versions."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from wings import __version__
from wings.extras import NAME

PACKAGES = ("torch", "transformers", "open_clip_torch", "tokenizers", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the figures depend on."""
    own = {"python": platform.python_version(), NAME: __version__}
    return {**own, **{name: version(name) for name in PACKAGES}}


def machine() -> dict[str, Any]:
    """Processor and number of cores."""
    return {"processor": processor_name(), "cores": os.cpu_count()}


def processor_name() -> str:
    """The processor as Linux names it, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
