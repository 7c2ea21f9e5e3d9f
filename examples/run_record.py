"""The command, date, machine and versions of a run, for its results."""

import os
import platform
from datetime import datetime, timezone
from typing import Any

import torch
import transformers

from wings.machine import processor_name


def run_record(command: str) -> dict[str, Any]:
    """`command`, `date` and `machine`, as they are at the end of a run."""
    return {
        "command": command,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": {
            "processor": processor_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load average at the end": [round(load, 1) for load in os.getloadavg()],
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def in_words(record: dict[str, Any]) -> str:
    """The record as a sentence of a page."""
    machine = record["machine"]
    load = machine["load average at the end"][0]
    return (
        f"`{record['command']}`, {record['date']}, {machine['processor']}, {machine['cores']}"
        f" cores, {machine['threads']} thread(s), load average {load} at the end, torch"
        f" {machine['torch']}, transformers {machine['transformers']}."
    )
