"""Peak memory of one call, in bytes above what was allocated before it.

For a training step that starts without gradients these are what its forward keeps, what operators
take for a while, and the gradients of everything trained; weights, buffers and the batch were there
before. The bare language model and Wings are counted alike, and all is trained in both but the
vision tower. Nothing is sampled: on a CPU the profiler reports each block that torch's allocator
hands out or takes back, also inside operators, so the peak is the same in every run (libraries that
keep scratch space of their own, as oneDNN may, are not seen). On a card it is the allocator's peak.
"""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

# Above all that the profiler's library writes to the standard error by itself, such as when it
# starts and that there is no card.
SILENT = "6"


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Runs `call` once; what it returns is dropped after the peak is taken."""
    return peak_on_a_card(call, device) if device.type == "cuda" else peak_on_a_cpu(call)


def peak_on_a_card(call: Callable[[], object], device: torch.device) -> int:
    """By the caching allocator's own count of blocks in use."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def peak_on_a_cpu(call: Callable[[], object]) -> int:
    """By adding up every allocation and release in the order they happened."""
    os.environ.setdefault("KINETO_LOG_LEVEL", SILENT)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as seen:
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        seen.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    blocks = [event for event in events if event.get("name") == "[memory]"]
    blocks.sort(key=lambda event: (event["ts"], event["args"]["Ev Idx"]))
    held: dict[int, int] = {}
    total = peak = 0
    for event in (block["args"] for block in blocks):
        if event["Device Type"] != 0:
            continue
        # A block that was there before gives nothing back.
        change = event["Bytes"] if event["Bytes"] > 0 else -held.pop(event["Addr"], 0)
        if change > 0:
            held[event["Addr"]] = change
        total += change
        peak = max(peak, total)
    return peak
