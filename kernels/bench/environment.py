"""The environment of a run: device, versions, threads, command and commit."""

import os
import platform
import shlex
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from wings.machine import processor_name


def environment(device: torch.device, arguments: list[str]) -> dict[str, Any]:
    """Device, versions, threads, date, the exact command, and the commit if there is one."""
    return {
        "device": device_name(device),
        "python": platform.python_version(),
        **{name: installed(name) for name in ("torch", "triton", "transformers")},
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "wings.kernels.bench", *arguments]),
        "commit": commit(),
    }


def device_name(device: torch.device) -> str:
    """Name of the GPU or the processor."""
    is_gpu = device.type == "cuda"
    return torch.cuda.get_device_name(device) if is_gpu else processor_name()


def installed(package: str) -> str | None:
    """The version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the checkout, marked if files differ from it; None outside of a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def slug(text: str) -> str:
    """`NVIDIA H100 80GB HBM3` -> `nvidia-h100-80gb-hbm3`; letters, digits and hyphens."""
    kept = "".join(c if c.isalnum() else " " for c in text.lower().replace("d ", "d"))
    return "-".join(kept.split())
