"""The record of a run: where and how it was made, its checks and rows; as JSON."""

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .run import Run

PACKAGES = ("torch", "triton", "transformers")


def surroundings(device: torch.device, arguments: list[str]) -> dict[str, Any]:
    """Device, versions, threads, date, the exact command and the commit, if there is one."""
    return {
        "device": device_name(device),
        "python": platform.python_version(),
        **{name: installed(name) for name in PACKAGES},
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "wings.kernels.bench", *arguments]),
        "commit": commit(),
    }


def device_name(device: torch.device) -> str:
    """The card's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """The checkout's commit, marked where files differ from it; None outside of a checkout."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def as_json(run: Run, where: dict[str, Any]) -> str:
    """The whole record."""
    record = {
        **where,
        "preset": run.preset.name,
        "seconds": round(time.monotonic() - run.started),
        "models": [
            {
                "name": shape.name, "width": shape.width, "heads": shape.heads,
                "key_heads": shape.key_heads, "inner": shape.inner, "layers": shape.layers,
                "decoding_layers": shape.decoding_layers, "vocabulary": shape.vocabulary,
                "rank": shape.rank, "image_tokens": shape.image_tokens,
            }
            for shape in run.preset.shapes
        ],
        "ceilings": run.ceilings and vars(run.ceilings),
        "failures": run.failures,
        "left_out": run.left_out,
        "checks": run.checks,
        "rows": [row.described() for row in run.rows],
    }  # fmt: skip
    return json.dumps(record, indent=1) + "\n"


def command_line() -> list[str]:
    """What was written behind the module's name."""
    return sys.argv[1:]
